"""The exact KL between the optimal and the learnt law of the answers, for enumerated tasks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm
from pipeline.ctmc import exact
from pipeline.objectives.context import Context
from pipeline.samplers.enumeration import posterior_table
from pipeline.settings.method import Settings
from pipeline.tasks.base import Enumerated


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
