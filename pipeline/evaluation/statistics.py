"""Means and standard errors of the metrics of single answers; the exact KL for enumerated tasks."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm
from pipeline.ctmc import exact
from pipeline.objectives.context import Context
from pipeline.samplers.enumeration import posterior_table
from pipeline.settings.algorithms import Settings
from pipeline.tasks.base import Enumerated

Metrics = Mapping[str, float]


def summarize(metrics: Sequence[Metrics]) -> dict[str, float]:
    """n and, for each metric, its mean and the standard error `<metric>_se` = s/√n, with n - 1 in s².

    The standard error describes how the mean varies with the sample of items.
    """
    count = len(metrics)
    summary: dict[str, float] = {"n": count}
    for name in metrics[0]:
        values = [metric[name] for metric in metrics]
        mean = math.fsum(values) / count
        variance = math.fsum((value - mean) ** 2 for value in values) / max(1, count - 1)
        summary |= {name: mean, f"{name}_se": math.sqrt(variance / count)}
    return summary


def by_group(metrics: Sequence[Metrics], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """`summarize` of each group, ordered by the length of its name, then by the name, so that 4 comes before 10."""
    members: dict[str, list[Metrics]] = {}
    for metric, group in zip(metrics, groups, strict=True):
        members.setdefault(group, []).append(metric)
    return {group: summarize(members[group]) for group in sorted(members, key=lambda name: (len(name), name))}


def posteriors_of(
    policy: nn.Module, prompt: Int[Tensor, " P"], algorithm: Algorithm[Settings], context: Context[Settings]
) -> Float[Tensor, "2 S M"]:
    """The posteriors with which answers are drawn: the policy's, or as the algorithm's decoder changes them."""
    table = posterior_table(policy, prompt, context.values, context.mask_id)
    return algorithm.law(table, context) if algorithm.law else table


def optimum(problem: Enumerated, inverse_alpha: float) -> Float[Tensor, "M M"]:
    """log p*(x) with p* ∝ p^base e^{r/α}"""
    return exact.tilted(torch.from_numpy(problem.base).log(), torch.from_numpy(problem.reward), inverse_alpha)


def exact_kl(log_posterior: Float[Tensor, "2 S M"], problem: Enumerated, inverse_alpha: float) -> dict[str, float]:
    """KL(p* ‖ p^u) of the answers, and the KL of each jump of the paths."""
    target = optimum(problem, inverse_alpha)
    first, second = exact.jump_kl(target, log_posterior)
    ends = exact.kl(target.flatten(), exact.path_law(log_posterior).flatten())
    return {"kl": float(ends), "kl_jump_1": first, "kl_jump_2": second}
