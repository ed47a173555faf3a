"""Rewards that hang whatever is done to stop them, fail, or return nonsense; and a few that are right."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

COUNT = []
ZERO = {"reward": 0.0, "cell_accuracy": 0.0, "grid_accuracy": 0.0}


def times_itself(item, answer):  # as libraries do that compare LaTeX under SIGALRM
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    time.sleep(1000)
    return ZERO


def leaves_its_handler(item, answer):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(1000)
    return ZERO


def catches_everything(item, answer):
    try:
        time.sleep(1000)
    except BaseException:
        return ZERO


def catches_for_ever(item, answer):
    while True:
        try:  # noqa: SIM105
            time.sleep(1000)
        except BaseException:
            pass


def fails(item, answer):
    raise ValueError("no such cell")


def raises_what_nobody_catches(item, answer):
    raise BaseException("stop")


def ends_the_process(item, answer):
    os._exit(3)


def hangs_with_a_child(item, answer):
    child = subprocess.Popen(["sleep", "1000"])
    Path(answer).write_text(str(child.pid))
    child.wait()


def counts(item, answer):
    COUNT.append(answer)
    return {"reward": len(COUNT)}


def numpy_numbers(item, answer):
    return {"reward": np.float32(0.5), "right": np.bool_(True), "count": 3}


def several(item, answer):
    return {"reward": np.zeros(2)}


def not_a_number(item, answer):
    return {"reward": float("nan")}


def infinite(item, answer):
    return {"reward": float("inf")}


def no_reward(item, answer):
    return {"accuracy": 1.0}


def changing(item, answer):
    return {"reward": 1.0, answer: 0.0}


def own_metric(item, answer):
    return {"reward": float(len(answer)), "length": float(len(answer))}


def leaves_a_child(item, answer):
    if not COUNT:
        COUNT.append(subprocess.Popen(["sleep", "1000"]).pid)
    return {**ZERO, "reward": float(COUNT[0])}
