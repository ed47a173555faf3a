"""CPU time of rollouts with a block cache, compared with LLaDA's published sampler and with rollouts without a cache.

All three reveal the answer block by block with the same weights, prompts, batch and steps, and take turns. The
published sampler and rollouts without a cache have the same law. With a cache the law is another one; its
log-probabilities are recorded exactly, which a replay of the paths checks. A model that sees block by block has one law
with a cache and without; of other families than LLaDA rollouts are compared with those without a cache.

    python -m benchmarks.block_cache
    python -m benchmarks.block_cache --model sdar --block 4 --answer 128 --tokens-per-step 1
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.rollout import create, in_turns, parser_of, print_head, published, spread
from pipeline.models import FAMILIES
from pipeline.models.base import blocks_of
from pipeline.models.family import family_of
from pipeline.plugins import load_model
from pipeline.samplers.ancestral import Trajectories, path_log_prob, rollout

ROUNDING = 1e-3
"""Largest difference of a recorded and a replayed log-probability: each is one of fp32."""


class Bench:
    """A model with random weights, prompts, and the three samplers. [MASK] is the last token."""

    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        family = family_of(args.model)
        blocks = args.block if family and family.block_length else None
        self.args, self.mask_id = args, args.vocabulary - 1
        self.model = create(load_model(args.model), args, args.vocabulary, name=args.model, block_length=blocks)
        self.prompt = torch.randint(self.mask_id, (args.batch, args.prompt))
        self.samplers: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "uncached": lambda: self.drawn(None),
            "cached": lambda: self.drawn("block"),
        }
        if args.model == "llada":
            inputs = (self.model, self.prompt, args.answer, self.mask_id, args.tokens_per_step, args.block)
            self.samplers = {"published": partial(published, *inputs), **self.samplers}

    def drawn(self, cache: str | None) -> tuple[Tensor, Tensor]:
        paths = self.rollout(cache)
        return paths.tokens, paths.log_prob

    def rollout(self, cache: str | None) -> Trajectories:
        """Including the time to draw its noise."""
        args = self.args
        order, token = torch.rand(2, args.batch, args.answer, dtype=torch.float64)
        return rollout(
            self.model,
            self.prompt,
            torch.full((args.batch, args.answer), self.mask_id),
            mask_id=self.mask_id,
            order_noise=order,
            token_noise=token,
            tokens_per_step=args.tokens_per_step,
            block_length=args.block,
            cache=cache,
        )

    def replay(self) -> tuple[float, float]:
        """The largest difference of recorded and replayed log p̃ of a token, and the mean of log p̃ - log p of a path:
        how far the two laws of these weights are apart."""
        paths, length = self.rollout("block"), self.args.block
        own, other = (
            path_log_prob(self.model, self.prompt, paths, mask_id=self.mask_id, cached_blocks=blocks)
            for blocks in (length, None)
        )
        return (own - paths.log_prob).abs().max().item(), (own - other).sum(dim=1).mean().item()


def report(args: argparse.Namespace) -> bool:
    """Print the report; returns whether the replay gives what was recorded."""
    bench = Bench(args)
    print_head(
        args,
        f"{args.model}: hidden {args.hidden}, intermediate {args.intermediate}, {args.layers} layers, "
        f"{args.heads} heads, vocabulary {args.vocabulary}, fp32; prompt {args.prompt}, answer {args.answer}, "
        f"blocks of {args.block}, {args.tokens_per_step} tokens per step, batch {args.batch}.",
    )
    seconds, _ = in_turns(bench.samplers, args.repeats, bench.mask_id)
    first = next(iter(seconds))
    print(f"| sampler | seconds | times {first} |", "|---|---:|---:|", sep="\n")
    for name, own in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(own, seconds[first], strict=True)]
        print(f"| {name} | {spread(own)} | {spread(ratios, 2)} |")
    difference, distance = bench.replay()
    exact = difference < ROUNDING and (blocks_of(bench.model) is None or abs(distance) < ROUNDING)
    print(
        f"\nRecorded = replayed: {'yes' if exact else 'NO'}, to {difference:.0e}; "
        f"mean log p̃/p of a path of these random weights {distance:+.2f}."
    )
    return exact


def main(arguments: list[str] | None = None) -> int:
    sizes = (
        ("hidden", 256, "hidden size"),
        ("intermediate", 672, "width of the feed-forward layers"),
        ("layers", 4, "number of layers"),
        ("heads", 8, "number of attention heads"),
        ("vocabulary", 512, "tokens, [MASK] included"),
        ("prompt", 32, "prompt tokens"),
        ("answer", 64, "answer tokens"),
        ("block", 32, "positions in a block"),
        ("tokens-per-step", 2, "positions revealed per step"),
        ("batch", 16, "trajectories per batch"),
        ("repeats", 9, "timed repeats of each sampler"),
        ("threads", 1, "CPU threads"),
    )
    parser = parser_of(__doc__, sizes)
    parser.add_argument("--model", choices=FAMILIES, default="llada", help="family")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, prompts and noise")
    parser.add_argument("--initializer-range", type=float, default=0.06, help="of the fresh weights")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    return 0 if report(args) else 1


if __name__ == "__main__":
    sys.exit(main())
