"""The exact KL between the optimal and the learnt law of the answers, for enumerated tasks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Context
from pipeline.ctmc import exact
from pipeline.samplers.enumeration import tabulate
from pipeline.settings.algorithms import Settings
from pipeline.tasks.base import Enumerated


def posteriors_of(
    policy: nn.Module, prompt: Int[Tensor, " P"], algorithm: Algorithm[Settings], context: Context[Settings]
) -> Float[Tensor, "2 S M"]:
    """The posteriors that answers are drawn from: the policy's, or those of the algorithm's own decoding."""
    table = tabulate(policy, prompt, context.values, context.mask_id)
    return algorithm.law(table, context) if algorithm.law else table


def optimum(problem: Enumerated, inverse_alpha: float) -> Float[Tensor, "M M"]:
    """log p*(x) with p* ∝ p^base e^{r/α}, the optimum of the KL-regularized reward."""
    return exact.tilted(torch.from_numpy(problem.base).log(), torch.from_numpy(problem.reward), inverse_alpha)


def exact_kl(log_posterior: Float[Tensor, "2 S M"], problem: Enumerated, inverse_alpha: float) -> dict[str, float]:
    """KL(p* ‖ p^u) of the answers, and of each jump of the paths."""
    target = optimum(problem, inverse_alpha)
    first, second = exact.jump_kl(target, log_posterior)
    ends = exact.kl(target.flatten(), exact.path_law(log_posterior).flatten())
    return {"kl": float(ends), "kl_jump_1": first, "kl_jump_2": second}
