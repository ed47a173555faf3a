"""What the rules are made with: the checked settings, the commands that start jobs, and their inputs.

The Snakefile includes this file. All else that it computes is in `rules.py` beside it.
"""

import atexit
import json
import os
import re
import sys
import time
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, str(Path.cwd()))  # so that tasks beside the Snakefile can be imported

from pipeline.runtime import devices, slurm
from pipeline.workflow import made_with, rules as wf
from pipeline.errors import PipelineError
from pipeline.workflow.dry_run import print_estimate
from pipeline.workflow.preflight import Preflight, explain_targets
from pipeline.settings.params_file import read_params, runs_of_suite
from pipeline.settings.stages import settings_json
from pipeline.runtime.fork_server import Preloaded
from pipeline.runtime.launch import SHELL
from pipeline.workflow.records import judge
from pipeline.workflow.seal import restore
from pipeline.workflow.targets import descriptions
from pipeline.workflow.tracking import Follower
from pipeline.workflow.terminal import OfSingleJobs, OfTheEnd, Terminal, leave_out, pending_jobs
from pipeline.tasks.base import HELD_OUT, SPLITS

try:
    PARAMS = read_params(config.get("params", "params.yaml"))
    # On a cluster (`nodes` is then its limit of jobs) the GPUs are not ours to hand out.
    LOCAL = workflow.is_main_process and workflow.resource_settings.nodes is None
    WANTED = PARAMS.hardware.devices
    DEVICES = devices.devices_of(WANTED) if LOCAL else []
    PARAMS = PARAMS.on(len(DEVICES))
    if workflow.is_main_process:
        wf.check_writable()
        for run in PARAMS.runs:
            restore(run)
except PipelineError as error:
    sys.exit(f"error: {error}")
if workflow.is_main_process:
    atexit.register(print_estimate, workflow, PARAMS, len(DEVICES))
    atexit.register(explain_targets, workflow, PARAMS)
    leave_out(workflow, OfSingleJobs())
RUNS, HARDWARE, KEEP = PARAMS.runs, PARAMS.hardware, PARAMS.keep.model_dump_json()
COMPILE = json.dumps(HARDWARE.compile)
ORIGINS = wf.origins(RUNS, PARAMS.default_run)
CHECKED = Preflight(PARAMS, ORIGINS, workflow.is_main_process)
DESCRIPTIONS = descriptions(PARAMS)
SUITES = {suite: runs_of_suite(PARAMS, named) for suite, named in PARAMS.suites.items()}
PRELOADED = Preloaded(sys.executable, HARDWARE.preload and workflow.is_main_process)
if DEVICES:
    workflow.register_resource("devices", len(DEVICES))
TARGETS = {run: f"data/runs/{run}/report.html" for run in RUNS} | {
    suite: [
        f"data/results/{suite}.json",
        *expand("data/runs/{run}/report.html", run=runs),
    ]
    for suite, runs in SUITES.items()
}
STARTED, TERMINAL = time.time(), Terminal(PARAMS)
FOLLOWER = Follower(HARDWARE.track)
os.environ.setdefault("TQDM_MININTERVAL", "1")
os.environ.setdefault("PYTHONUTF8", "1")  # jobs write UTF-8, whatever the locale
# SLURM announces the end by SIGTERM, on which training saves its progress: the shell must outlive it.
NOTICE = "trap '' TERM; " if "SLURM_JOB_ID" in os.environ else ""
# What stages print stays in their logs; of a job that fails, its error lines are shown at once. One that ends without
# any and without a traceback, by a signal for example, gets one.
FAILED = (
    'failed() {{ code=$?; grep -aqE "^(error:|([[]rank[0-9]+[]]: )?Traceback )" "$1" || echo "error: the job ended with status $code" >> "$1";'
    ' sed -n "\\|^error:|s|$| [$1]|p" "$1" >&2; exit $code; }}; '
)
shell.prefix(f"set -euo pipefail; export {SHELL}=$$; {NOTICE}{FAILED}")
# Resources and threads, unlike params, rerun nothing when they change.
PLAIN = wf.launch(sys.executable)
FORK = wf.launch(sys.executable, PRELOADED.socket)
ONE = min(1, len(DEVICES))
# A device of the job's own, if there are any.
ON_DEVICE = wf.launch(sys.executable, PRELOADED.socket, devices=ONE)
THREADS = wf.threads(HARDWARE.threads, workflow.resource_settings.cores, len(DEVICES))


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),
    suite="|".join(SUITES),
    round=r"\d{3}",
    shard=r"\d{2}",


def settings(stage):
    return lambda wildcards: settings_json(RUNS[wildcards.run], stage)


def processes(wildcards):
    return HARDWARE.of(wildcards.run, RUNS[wildcards.run].model.name).processes


def base_processes(wildcards):
    return processes(wildcards) if RUNS[wildcards.run].base.trains else 0


def launch_ranks(count):
    return wf.launch(sys.executable, PRELOADED.socket, ranks=count, devices=devices_for(count))


def devices_for(count):
    return min(count, len(DEVICES))


def opens_policy(wildcards):
    return RUNS[wildcards.run].evaluate.shards == 1 or wf.enumerated(RUNS[wildcards.run])


def code(stage):
    return lambda wildcards: made_with.code_and_data(stage, RUNS[wildcards.run], wildcards.run)


def of_origin(path):
    return lambda wildcards: expand(path, run=ORIGINS[CHECKED(wildcards.run)], allow_missing=True)


def policy(number):
    return lambda wildcards: wf.policy(CHECKED(wildcards.run), number(wildcards), ORIGINS)


def this_round(wildcards):
    return wildcards.round


def round_before(wildcards):
    return wf.before(wildcards.round)


def held_out(wildcards):
    splits = "data/runs/{run}/items/{split}.parquet"
    return expand(splits, run=ORIGINS[wildcards.run], split=HELD_OUT)


def last_round(wildcards):
    return wf.number(RUNS[wildcards.run].rounds)


def of_round_before(path):
    return lambda wildcards: (
        []
        if wildcards.round == "001"
        else path.format(run=wildcards.run, round=wf.before(wildcards.round))
    )


onstart:
    TERMINAL.start(pending_jobs(workflow), errors=not workflow.local_exec)
    FOLLOWER.start({job.run for job in pending_jobs(workflow).values()} & RUNS.keys())
    if workflow.local_exec:
        devices.share(DEVICES)
        if not LOCAL and devices.devices_of(WANTED):
            print(
                "all jobs use the first GPU: give --cores alone, without --jobs",
                file=sys.stderr,
            )
        PRELOADED.start()
        if workflow.cores < len(DEVICES):
            print(
                f"--cores {workflow.cores} runs at most {workflow.cores} of {len(DEVICES)} devices"
            )
        # Its timers wake the scheduler more often with every job: a third of a core after some hundred jobs.
        workflow.scheduler.job_rate_limiter = None
    elif workflow.executor_plugin.name == "slurm":
        slurm.cancel_left_behind(Path.cwd())


onsuccess:
    PRELOADED.stop()
    TERMINAL.stop()
    FOLLOWER.stop()
    print(wf.results(RUNS, since=STARTED))


onerror:
    PRELOADED.stop()
    TERMINAL.stop()
    FOLLOWER.stop()
    leave_out(workflow, OfTheEnd())
