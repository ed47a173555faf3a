"""How fast stages computed, together and in words. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import TypedDict


class Measured(TypedDict):
    """How fast a stage was, in one process: `throughput.Meter.measured`."""

    tokens: int
    seconds: float
    flops: float
    peak: float | None


def speed(measured: Sequence[Measured]) -> dict[str, float]:
    """Of stages together, in one process: tokens/s, TFLOP/s (models with known formulas), share of the GPU's peak."""
    seconds = sum(stage["seconds"] for stage in measured)
    flops = sum(stage["flops"] for stage in measured) / seconds
    found = {"tokens_per_second": sum(stage["tokens"] for stage in measured) / seconds}
    if flops:
        found["tflops"] = flops / 1e12
    if flops and (peak := measured[0]["peak"]):
        found["share_of_peak"] = flops / peak
    return found


def speed_in_words(speed: Mapping[str, float]) -> str:
    """`speed` in words."""
    words = [f"{speed['tokens_per_second']:,.0f} tokens/s"]
    words += [f"{speed['tflops']:.3g} TFLOP/s"] if "tflops" in speed else []
    words += [f"{speed['share_of_peak']:.0%} of the peak"] if "share_of_peak" in speed else []
    return ", ".join(words)
