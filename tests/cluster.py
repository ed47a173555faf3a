"""A real SLURM cluster of two nodes on this machine: munged, slurmctld and two slurmd, as root, without systemd.

Each node has one GPU that is only a device file. Everything except the packages and one link is in one directory.
"""

import fcntl
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
LOCK = Path(tempfile.gettempdir(), "dam-tests-slurm.lock")
SYSTEM = Path("/etc/slurm/slurm.conf")
"""Where SLURM's commands look. Setting SLURM_CONF is not enough, because Snakemake hides it from its job steps."""

SETTINGS = """# Made by tests/cluster.py.
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdParameters=config_overrides
SlurmUser=root
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmdSpoolDir={directory}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
KillWait=5
ReturnToService=2
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=2
"""
NODE = "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=64000 Gres=gpu:1\n"


class UnavailableError(Exception):
    """SLURM cannot run here; the message is the reason."""


def install() -> None:
    """Install the Debian packages that are missing, without starting their services.

    Raises:
        UnavailableError: if that is not possible.
    """
    if os.geteuid() != 0:
        raise UnavailableError("SLURM's daemons need root")
    if SYSTEM.exists() and not SYSTEM.read_text(encoding="utf-8").startswith(SETTINGS.splitlines()[0]):
        command = "snakemake --profile profiles/slurm smoke-chat"
        raise UnavailableError(f"this machine has a SLURM of its own ({SYSTEM}): test the profile on it by `{command}`")
    if all(shutil.which(program) for program in ("munged", "slurmctld", "slurmd", "sbatch")):
        return
    if not shutil.which("apt-get"):
        raise UnavailableError("SLURM is not installed, and there is no apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["timeout", "300", "apt-get", "-q", *command], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise UnavailableError(f"apt-get cannot install SLURM: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster, for the tests of one module; if it cannot run, they are skipped with the reason.

    A machine can have only one SLURM at a time: other pytest processes wait for it.
    """
    pytest.importorskip("snakemake_executor_plugin_slurm")
    with ExitStack() as stack:
        fcntl.flock(stack.enter_context(LOCK.open("w")), fcntl.LOCK_EX)
        try:
            install()
            stack.enter_context(running(tmp_path_factory.mktemp("slurm")))
        except (UnavailableError, PermissionError) as reason:
            pytest.skip(str(reason))
        yield


@contextmanager
def running(directory: Path) -> Iterator[None]:
    """Start the cluster, wait until its nodes are idle, and stop its processes at the end."""
    host = socket.gethostname().split(".")[0]
    nodes = ("node1", "node2")
    configuration = SETTINGS.format(host=host, directory=directory, port=_free_port())
    devices = ""
    (directory / "state").mkdir()
    for number, node in enumerate(nodes):
        configuration += NODE.format(node=node, host=host, port=_free_port())
        devices += f"NodeName={node} Name=gpu File={directory}/gpu{number}\n"
        os.mknod(directory / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (directory / "slurm.conf").write_text(configuration)
    (directory / "gres.conf").write_text(devices)
    key = directory / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munged = [f"--{option}={directory}/munge.{suffix}" for option, suffix in files.items()]
    SYSTEM.unlink(missing_ok=True)  # a killed test leaves its link
    SYSTEM.parent.mkdir(exist_ok=True)
    SYSTEM.symlink_to(directory / "slurm.conf")
    with ExitStack() as stack:
        stack.callback(SYSTEM.unlink)
        stack.enter_context(_daemon(directory, "munged", "--foreground", "--force", *munged))
        wait_for((directory / "munge.socket").exists)
        configured = ["-D", "-f", f"{directory}/slurm.conf"]
        stack.enter_context(_daemon(directory, "slurmctld", *configured))
        for node in nodes:
            stack.enter_context(_daemon(directory, "slurmd", *configured, "-N", node))
        wait_for(lambda: ask("sinfo", "--noheader", "--states=idle", "--format=%D") == "2")
        stack.callback(_empty_queue)
        yield


def ask(*command: str) -> str:
    """The output of a command; "" if it fails, as it does while the daemons start."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def wait_for(condition: Callable[[], bool], seconds: float = 60, pause: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(pause)


def _empty_queue() -> None:
    ask("scancel", "--user=root")
    wait_for(lambda: ask("squeue", "--noheader") == "")


@contextmanager
def _daemon(directory: Path, program: str, *options: str) -> Iterator[None]:
    with (
        (directory / f"{program}.out").open("ab") as out,
        subprocess.Popen([program, *options], stdout=out, stderr=out) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
