"""A workstation's GPUs as a pool: each job that computes with a model has devices of its own as long as it lives.

The job's launcher locks a file for each device (`flock`), shows CUDA only these devices, and hands the open files to
the stage. A lock ends with the last process that has the file open, however that process ends. The files lie in a
directory of the user, so that all workflows of this user share the pool.
"""

import fcntl
import json
import os
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from pipeline.errors import PipelineError

NEEDED, POOL = "JOB_DEVICES", "DEVICE_POOL"
"""Environment variables: how many devices a job needs, from its command; the pool, from the Snakefile."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
FILES = Path("/dev")
PAUSE, PATIENCE = 0.05, 5.0
"""Seconds between two looks for a free device, and until a job says that it waits."""


def gpus() -> list[str]:
    """The GPUs that CUDA shows to this process, named as in `CUDA_VISIBLE_DEVICES`; found without PyTorch."""
    count = len(list(FILES.glob("nvidia[0-9]*")))
    visible = os.environ.get(VISIBLE)
    names = map(str, range(count)) if visible is None else map(str.strip, visible.split(","))
    return list(takewhile(lambda name: name not in ("", "-1"), names))[:count]


def devices_of(wanted: int | None) -> list[str]:
    """The names of the `wanted` devices that jobs share, for None of all. On a machine without GPUs they only limit how
    many jobs run at once.

    Raises:
        PipelineError: if there are GPUs, but fewer than wanted.
    """
    found = gpus()
    if wanted is None:
        return found
    if found and wanted > len(found):
        raise PipelineError(f"hardware.devices is {wanted}, but this machine shows {len(found)} GPUs: lower it")
    return (found or [str(number) for number in range(wanted)])[:wanted]


def share(devices: Sequence[str]) -> None:
    """Let the jobs that this process starts share these devices; without any, jobs do not wait for each other."""
    if devices:
        # The machine's name, since the directory for temporary files may be one that several machines share.
        folder = f"{tempfile.gettempdir()}/dam-devices-{os.getuid()}-{platform.node()}"
        os.environ[POOL] = json.dumps([folder, *devices])


def needed() -> int:
    """How many devices this job needs of the pool; 0 if there is none."""
    return int(os.environ.get(NEEDED, "0")) if POOL in os.environ else 0


def hold() -> list[int]:
    """Lock as many devices as this job needs, wait until they are free, and return the open files.

    Jobs queue up: a job that needs several devices takes each that becomes free, and those behind it wait.
    """
    if not (count := needed()):
        return []
    directory, *names = json.loads(os.environ[POOL])
    try:
        queue, *files = _open_all(Path(directory), ["queue", *names])
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}; set TMPDIR to a directory of your own")
    fcntl.flock(queue, fcntl.LOCK_EX)
    held = _lock(dict(zip(names, files, strict=True)), min(count, len(names)))
    for file in {queue, *files}.difference(held.values()):
        os.close(file)
    for file in held.values():
        os.set_inheritable(file, True)
    if os.environ.get(VISIBLE) != "":  # empty if the user wants no GPU
        os.environ[VISIBLE] = ",".join(held)
    print(f"device {','.join(held)} since {datetime.now().isoformat(timespec='milliseconds')}", flush=True)
    return list(held.values())


def _open_all(directory: Path, names: Sequence[str]) -> list[int]:
    """The lock files of these names, opened. OSError if the directory belongs to another user."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.stat(follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(0, "belongs to another user", str(directory))
    return [os.open(directory / name.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o600) for name in names]


def _lock(files: dict[str, int], needed: int) -> dict[str, int]:
    """Lock `needed` of the files, as they become free, in the order of their names in the pool."""
    free: dict[str, int] = {}
    begun, told = time.monotonic(), False
    while True:
        for name, file in files.items():
            if len(free) < needed and name not in free and _try_lock(file):
                free[name] = file
        if len(free) == needed:
            return {name: free[name] for name in files if name in free}
        if not told and time.monotonic() - begun > PATIENCE:
            told = True
            print(f"waiting for {needed} of the devices {', '.join(files)}: other jobs hold them", flush=True)
        time.sleep(PAUSE)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
