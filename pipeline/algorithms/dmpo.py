"""DMPO: Distribution Matching Policy Optimization (arXiv 2510.08233).

    ℓ^± = Σ_s Σ_{i∈S_s} [log p^base - log p^u](x_i | x_s) ± r/α,      w = softmax_k(ℓ^+) - softmax_k(ℓ^-),
    L = - K w_k (1/m) Σ_{i∈M(x)} log p_θ(X_1^(k)_i | x, i),      x = X_1^(k) re-masked, m = |M(x)|.

Completions whose rewards are all equal have w = 0. Each completion is re-masked at levels λ ~ U(0.1, 1), and every mask
comes with its complement: two masks and their complements make the four replicates of the paper.

Weights of both signs make L a direction, not a target. No policy minimises it: - w log p falls without a bound where w
is negative. And p* ∝ p^base e^{r/α} does not stay: ℓ^+ is constant there, but w_k = 1/K - softmax_k(-2r/α). Few and
small updates on a round's rollouts keep it from undoing the policy; nothing is clipped.

Checked against the authors' code (github.com/yuchen-zhu-zyc/DMPO, commits 07434f9 and a521073): both softmaxes, the
sign of the log ratio in the second, the factor 1/m, the complementary pairs and the range of λ. Its first version takes
the log-likelihood ratio along the sampled path, as here; the second takes an ELBO with shared masks. Their softmax may
run over the rows of one device only; here it is over the group. Their loss is a sum over rows without the factor K;
only the scale differs. Each of their 8 updates on 64 or 128 rollouts takes all of them under new masks, with a third of
d1's learning rate; here a batch is of `batch_size`/4K groups, whose weights add up to 0. They sample
at temperature 0 or 0.2 and take the ratio at 1; here it is that of the law sampled.
"""

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.ctmc.weights import log_weights, self_normalized
from pipeline.objectives.targets import Rollouts, Targets, targets_of_this_round
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.settings.algorithms import Dmpo


def make_targets(rollouts: Rollouts, settings: Dmpo) -> Targets:
    """The weight of a completion is K (softmax(ℓ^+) - softmax(ℓ^-))."""
    log_ratio = rollouts.base_log_ratio
    plus, minus = (
        log_weights(rollouts.in_groups(log_ratio), rollouts.reward, sign / settings.alpha) for sign in (1, -1)
    )
    return targets_of_this_round(rollouts, self_normalized(plus) - self_normalized(minus), log_ratio)


PLUGIN = Algorithm(
    paper="DMPO, arXiv 2510.08233",
    settings=Dmpo,
    make_targets=make_targets,
    replay=batches_of("complementary_masks"),
    loss=weighted_cross_entropy,
)
