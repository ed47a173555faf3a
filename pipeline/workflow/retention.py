"""Removes the files of old rounds as `keep` in params.yaml asks, and measures what the rounds take on disk.

A round's rollouts are read in that round only, its targets and optimiser state in the next too. When round k trains,
rounds before k - 1 are finished and recorded: removing their files makes nothing stale, even if a kill interrupts it.
The files of the last finished round are never removed, because the next round starts from them.
"""

import shutil
from pathlib import Path

from pipeline.settings.project import Keep

BUFFERS, OPTIMIZER, POLICY = ("rollouts", "references", "targets"), ("optimizer.safetensors",), ("policy",)


def prune(run: Path, newest: int, keep: Keep) -> None:
    """Remove what `keep` does not ask for; `newest` is the last finished round."""
    for names, count in ((BUFFERS, keep.buffers), (OPTIMIZER, keep.optimizer)):
        for number in range(1, newest - count + 1 if isinstance(count, int) else 0):
            for name in names:
                _remove(run / f"round_{number:03d}" / name)


def may_be_removed(name: str) -> bool:
    """Whether a file of a finished run, named by its path in the run's directory, may be gone: a log, or one of a kind
    that `prune` removes, which the user may remove as well."""
    folder, *rest = Path(name).parts
    return folder == "logs" or (folder.startswith("round_") and rest[:1] in [[kind] for kind in (*BUFFERS, *OPTIMIZER)])


def disk_use(run: Path) -> dict[str, int]:
    """The bytes that a run's buffers, optimiser states and policies take."""
    kinds = {"buffers": BUFFERS, "optimizer": OPTIMIZER, "policies": POLICY}
    return {
        kind: sum(_size(path) for name in names for path in run.glob(f"round_*/{name}"))
        for kind, names in kinds.items()
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
