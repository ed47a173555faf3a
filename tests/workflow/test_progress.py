"""What a running Snakemake shows of its jobs, and the time that it says is left."""

import json
import logging
import re
import time
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from pipeline.settings.params_file import parse_params
from pipeline.workflow.progress import FLAT, LEGEND, Job, Progress, duration
from pipeline.workflow.terminal import OfSingleJobs, OfTheEnd, Terminal, last_traceback
from tests.small_workflow import SMALL, Workflow

TWO = {**SMALL, "runs": {"small": {}, "larger": {"train": {"updates": 24}}}}
"""A round of `larger` trains three times as long as one of `small`."""


def test_a_real_run_shows_rounds_and_nothing_of_single_jobs(finished: Workflow):
    lines = finished.said.splitlines()
    rounds = [line for line in lines if line.startswith("round ")]
    pattern = (
        r"round {}/2  reward 0\.\d+( → 0\.\d+)? +τ 0\.\d+  ESS \d\.\d/4  KL [\d.e-]+(  grid accuracy \d+ %.*)?"
        rf"(  {re.escape(FLAT)})?  (\d+ s|\d+ min|\d+ h \d+ min) left"
    )
    assert len(rounds) == 2
    assert all(re.fullmatch(pattern.format(k), line) for k, line in enumerate(rounds, 1)), rounds
    assert "grid accuracy" in rounds[-1]  # in round 1's line only if the base's evaluation has ended by then
    assert finished.said.count(LEGEND) == 1 and lines.count("base model ready") == 1
    assert not [line for line in lines if "%|" in line or "Select jobs" in line or "Finished jobid" in line]


def test_a_failed_job_shows_its_error_and_the_log_of_snakemake(copied: Workflow):
    (copied.run_directory / "report.html").unlink()
    (copied.run_directory / "round_001" / "train.json").write_text("{}")
    said = copied(ok=False).splitlines()
    total = next(number for number, line in enumerate(said) if line.startswith("total "))
    error, exiting, log = filter(None, said[total + 1 :])
    file, job = "data/runs/small/round_001/train.json", "data/runs/small/logs/report.log"
    assert error == f"error: {file} has no 'losses': delete it and run again [{job}]"
    assert exiting == "Exiting because a job execution failed. Look above for error messages"
    assert log.startswith("Complete log(s): ") and "RuleException" in Path(log.split(": ")[1]).read_text()


CALLED = 'RuleException:\nCalledProcessError in file "Snakefile", line 3:\n'


@pytest.mark.parametrize(
    ("message", "left_out"),
    [
        (CALLED + "Command 'a\nb' returned non-zero exit status 1.", True),
        (CALLED + "Command 'a' died with <Signals.SIGKILL: 9>.", False),
        ('RuleException:\nNameError in file "Snakefile", line 3:\nname "x" is not defined', False),
        ("MissingOutputException in rule train:\nJob 1 completed successfully, but some output files", False),
        ("LockException:\nError: Directory cannot be locked.", False),
        ('SyntaxError in file "Snakefile", line 3:\ninvalid syntax', False),
    ],
)
def test_errors_of_snakemake_itself_are_shown(message, left_out):
    """Only the status of a job's shell is left out, which says in its own line what is wrong."""
    record = logging.makeLogRecord({"msg": message, "levelno": logging.ERROR, "event": LogEvent.ERROR})
    assert OfSingleJobs().filter(record) != left_out and OfTheEnd().filter(record)


def test_a_round_without_signal_says_so(copied: Workflow, monkeypatch):
    monkeypatch.chdir(copied.directory)
    for k, flat in ((1, 1.0), (2, 0.9)):
        file = Path(f"data/runs/small/round_00{k}/adjoint.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"flat_groups": flat}))
    progress = Progress(parse_params(SMALL), {}, 0.0)
    assert [progress.round_line(Job("small", "train", k)).endswith(FLAT) for k in (1, 2)] == [True, False]


def test_a_round_in_numbers(finished: Workflow, monkeypatch):
    """Those of its own files; an evaluation that is still to be made again is not shown."""
    monkeypatch.chdir(finished.directory)
    folder = Path("data/runs/small")
    one, two = (json.loads((folder / f"round_00{k}" / "adjoint.json").read_text()) for k in (1, 2))
    progress = Progress(parse_params(SMALL), {}, 0.0)
    line = progress.round_line(Job("small", "train", 2))
    assert f"reward {one['reward_mean']:#.3g} → {two['reward_mean']:#.3g} " in line
    assert f"ESS {two['ess_mean']:.1f}/4" in line and line.removesuffix(f"  {FLAT}").endswith(" %")
    progress.pending[folder / "timings" / "evaluate_002.json"] = Job("small", "evaluate", 2)
    line = progress.round_line(Job("small", "train", 2))
    assert line.removesuffix(f"  {FLAT}").endswith("% (round 1)")


@pytest.fixture
def timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes timings of 10 seconds that begin at a given time."""
    monkeypatch.chdir(tmp_path)

    def write(run: str, name: str, begin: float) -> Path:
        path = Path("data/runs", run, "timings", f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = name.split("_", maxsplit=1)[0]
        path.write_text(json.dumps({"started": begin, "finished": begin + 10, "origin": {"stage": stage}}))
        return path

    return write


def test_the_time_that_is_left(timings):
    """Two of six rounds of 10 seconds have run one after the other; then two jobs ran side by side."""
    jobs = {Path(f"data/runs/small/timings/train_00{k}.json"): Job("small", "train", k) for k in range(1, 7)}
    now = time.time()
    progress = Progress(parse_params(TWO), jobs, now - 20)
    assert progress.finished() == [] and progress.seconds_left(now) is None
    timings("small", "train_002", now - 10)
    timings("small", "train_001", now - 20)
    assert [job.round for job in progress.finished()] == [1, 2]
    assert progress.seconds_left(now) == pytest.approx(40)
    timings("small", "train_003", now - 10)
    progress.finished()
    assert progress.seconds_left(now) == pytest.approx(15)


def test_the_time_of_a_run_that_has_not_begun(timings):
    """Its jobs count by their operations, at the speed of those that are done; a resumed run's by its own timings."""
    now = time.time()
    jobs = {Path(f"data/runs/{run}/timings/train_001.json"): Job(run, "train", 1) for run in TWO["runs"]}
    progress = Progress(parse_params(TWO), jobs, now - 10)
    timings("small", "train_001", now - 10)
    progress.finished()
    assert progress.seconds_left(now) == pytest.approx(30)
    later = Path("data/runs/small/timings/train_002.json")
    timings("small", "prepare", now - 10)
    progress = Progress(parse_params(TWO), {later: Job("small", "train", 2), **jobs}, now + 60)
    assert progress.earlier["small", "train"] == pytest.approx([10])
    assert progress.finished() == []


@pytest.mark.parametrize("origin", [None, [], {"stage": 1}])
def test_a_timing_that_somebody_has_damaged_counts_for_no_stage(timings, origin):
    """Snakemake starts all the same; the job itself is judged stale."""
    timings("small", "train_001", 0.0).write_text(json.dumps({"started": 1.0, "finished": 2.0, "origin": origin}))
    path = timings("small", "train_002", 0.0)
    path.write_text(json.dumps({"started": None, "finished": "now", "origin": {"stage": "train"}}))
    progress = Progress(parse_params(SMALL), {path: Job("small", "train", 2)}, 0.0)
    assert progress.earlier == {("small", ""): [1.0]} and progress.finished() == []
    path.unlink()
    assert progress.finished() == []


def test_errors_are_printed_once_and_tracebacks_at_the_end(timings, capsys):
    """Whatever bytes a log holds: a compiler that a reward calls writes in its own encoding."""
    path = timings("mine", "rollout_001_00", time.time() - 3600)
    other, stopped = path.with_stem("rollout_001_01"), path.with_stem("rollout_001_02")
    terminal = Terminal(parse_params(SMALL))
    terminal.started -= 1  # times of files lag behind the clock by up to 10 milliseconds
    folder = path.parent.parent / "logs"
    folder.mkdir()
    terminal.start(dict.fromkeys((path, other, stopped), Job("small", "rollout", 1)), errors=True)
    (folder / "rollout_001_00.log").write_bytes(
        b"caf\xe9\nTraceback (most recent call last)\nerror: the reward raised\n"
    )
    (folder / "rollout_001_01.log").write_text("a bar\nTraceback (most recent call last):\n  here\nKeyError: 'x'\n")
    (folder / "rollout_001_02.log").write_text("Traceback (most recent call last):\n  here\nKeyboardInterrupt\n")
    terminal.stop()
    terminal._look()
    said = capsys.readouterr()
    assert said.out == f"error: the reward raised [{folder / 'rollout_001_00.log'}]\n"
    assert said.err.splitlines()[1:] == ["Traceback (most recent call last):", "  here", "KeyError: 'x'"]


def test_of_several_ranks_the_first_that_failed_says_why():
    """Not the launcher, which fails after them."""
    lines = ("Traceback (most recent call last):", "  here", "KeyError: 'x'")
    ranks = "".join(f"[rank{rank}]: {line}\n" for rank in (1, 0) for line in lines)
    launcher = "Traceback (most recent call last):\n  run\nChildFailedError: \n"
    assert last_traceback(f"[rank0]:[W] a warning\n{ranks}{launcher}") == "\n".join(lines)
    assert last_traceback(launcher) == launcher.rstrip()


@pytest.mark.parametrize(("seconds", "text"), [(2, "5 s"), (43, "45 s"), (340, "6 min"), (7890, "2 h 10 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
