"""The step of an annealed tilt, which DAM and DTM share: 1/α_k in p_k ∝ p_{k-1} e^{r/α_k}."""

from jaxtyping import Float
from torch import Tensor

from pipeline.ctmc.weights import tilt_for_ess
from pipeline.settings.algorithms import Dam, Dtm


def next_step(
    log_ratio: Float[Tensor, "g K"], reward: Float[Tensor, "g K"], spent: float, settings: Dam | Dtm
) -> float:
    """1/α_k: as much of what is left of 1/α as `largest_step` and the ESS allow.

    Args:
        spent: Σ_{j<k} 1/α_j.
    """
    largest = min(settings.largest_step, max(0.0, 1 / settings.alpha - spent))
    return tilt_for_ess(log_ratio, reward, settings.min_ess, largest)
