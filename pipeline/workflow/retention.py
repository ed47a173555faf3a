"""Which rounds' files stay on disk, as `keep` in params.yaml says, and how much they take.

A round's rollouts and targets are read by that round and, the targets, by the next; so is its optimiser state. When
round k trains, those of rounds before k - 1 belong to jobs that are finished and recorded: to remove them makes nothing
stale, and a kill during it changes nothing. What the last round left is never removed: the next one starts from it.
"""

import shutil
from pathlib import Path

from pipeline.settings.sections import Keep

BUFFERS, OPTIMIZER, POLICY = ("rollouts", "references", "targets"), ("optimizer.safetensors",), ("policy",)


def prune(run: Path, newest: int, keep: Keep) -> None:
    """Remove what `keep` does not want of the rounds up to `newest`, the last one that is finished."""
    for names, count in ((BUFFERS, keep.buffers), (OPTIMIZER, keep.optimizer)):
        for number in range(1, newest - count + 1 if isinstance(count, int) else 0):
            for name in names:
                _remove(run / f"round_{number:03d}" / name)


def disk_use(run: Path) -> dict[str, int]:
    """Bytes of the buffers, optimiser states and policies of a run, by kind."""
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
