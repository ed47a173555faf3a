"""Best of K: decoding of the base, without training.

K = `candidates` answers are drawn by ancestral sampling, and the first of those with the largest reward is kept. Its KL
to the base is at most log K - (K - 1)/K (Beirami et al. 2024, arXiv 2401.01879). Every answer costs K decodings; a
method that trains has to beat this at equal compute.

On an enumerated task the law of the answers is exact. With F(r) and F(r-) the base's probabilities of a reward of at
most r and of less than r,

    p(x) = p^base(x) (F(r(x))^K - F(r(x)-)^K) / (F(r(x)) - F(r(x)-)) = p^base(x) Σ_{j<K} F(r(x))^j F(r(x)-)^{K-1-j}.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Reward
from pipeline.ctmc import exact
from pipeline.objectives.context import Context, DecodeContext
from pipeline.runtime.random_streams import Stream, uniforms
from pipeline.samplers.ancestral import rollout
from pipeline.settings.algorithms import BestOf


@torch.no_grad()
def decode(
    policy: nn.Module, prompt: Tensor, start: Tensor, noise: Tensor, reward: Reward, context: DecodeContext[BestOf]
) -> Tensor:
    """Answers, [n, L]; each is a function of its start and its row of `noise`, whatever the batch."""
    count, (rows, length) = context.algorithm.candidates, start.shape
    keys = [(int(value * 2**53), number, 0) for value in noise[:, 0].tolist() for number in range(count)]
    drawn = uniforms(context.seed, Stream.EVALUATION, 3, keys, 2 * length).to(start.device).view(rows, count, 2, length)
    kept, best = start, torch.full((rows,), -torch.inf, dtype=torch.float64, device=start.device)
    options = context.evaluate.model_dump(include={"tokens_per_step", "block_length"}) | {"mask_id": context.mask_id}
    for number in range(count):  # a batch at a time, so that memory does not depend on K
        order, token = drawn[:, number].unbind(1)
        done = rollout(policy, prompt, start, order_noise=order, token_noise=token, **options).tokens
        found = reward(torch.arange(rows, device=start.device), done)
        better = found > best
        kept, best = torch.where(better[:, None], done, kept), torch.where(better, found, best)
    return kept


def law(log_base: Tensor, context: Context[BestOf]) -> Tensor:
    """log p(x_i = v | x_j = u) of decoding, [2, M + 1, M], from the base's."""
    base, count = exact.path_law(log_base).exp().flatten(), context.algorithm.candidates
    levels, level = torch.from_numpy(context.problem.reward).flatten().unique(return_inverse=True)
    mass = torch.zeros(len(levels), dtype=torch.float64).index_add(0, level, base / base.sum())
    upper, power = mass.cumsum(0)[:, None], torch.arange(count)
    lower = upper - mass[:, None]
    of_level = (upper**power * lower.clamp(min=0) ** (count - 1 - power)).sum(dim=1)
    kept = (base * of_level[level]).clamp(min=1e-300)
    return exact.posteriors((kept / kept.sum()).log().view(log_base.shape[2], -1))


PLUGIN = Algorithm(paper="best of K, arXiv 2401.01879", settings=BestOf, decode=decode, law=law)
