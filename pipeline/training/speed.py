"""Throughput of stages: summed up, and as text. Does not import PyTorch."""

from collections.abc import Mapping, Sequence
from typing import TypedDict


class Measured(TypedDict):
    """What `throughput.Meter` measured in one process of a stage; `peak` is the GPU's operations per second."""

    tokens: int
    seconds: float
    flops: float
    peak: float | None


def speed(measured: Sequence[Measured]) -> dict[str, float]:
    """Tokens/s of the stages together, per process; TFLOP/s if operations are known, and their share of the peak."""
    seconds = sum(stage["seconds"] for stage in measured)
    flops = sum(stage["flops"] for stage in measured) / seconds
    found = {"tokens_per_second": sum(stage["tokens"] for stage in measured) / seconds}
    if flops:
        found["tflops"] = flops / 1e12
    if flops and (peak := measured[0]["peak"]):
        found["share_of_peak"] = flops / peak
    return found


def speed_in_words(speed: Mapping[str, float]) -> str:
    """The result of `speed` as text."""
    words = [f"{speed['tokens_per_second']:,.0f} tokens/s"]
    words += [f"{speed['tflops']:.3g} TFLOP/s"] if "tflops" in speed else []
    words += [f"{speed['share_of_peak']:.0%} of the peak"] if "share_of_peak" in speed else []
    return ", ".join(words)
