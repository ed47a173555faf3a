"""CPU time of rollouts with a block cache, compared with LLaDA's published sampler and with rollouts without a cache.

All three reveal the answer block by block with the same weights, prompts, batch and steps, and take turns. The
published sampler and rollouts without a cache have the same law. With a cache the law is another one; its
log-probabilities are recorded exactly, which a replay of the paths checks. A model that sees block by block has one law
with a cache and without; of other families than LLaDA rollouts are compared with those without a cache.

    python -m benchmarks.block_cache
    python -m benchmarks.block_cache --model sdar --block 4 --answer 128 --tokens-per-step 1
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.rollout import at_least_one, published
from pipeline.models import FAMILIES
from pipeline.models.base import blocks_of
from pipeline.models.family import family_of
from pipeline.plugins import load_model
from pipeline.samplers.ancestral import Trajectories, path_log_prob, rollout
from pipeline.settings.sections import ModelSection
from pipeline.storage.provenance import processor

ROUNDING = 1e-3
"""Largest difference of a recorded and a replayed log-probability: each is one of fp32."""


class Bench:
    """A model with random weights, prompts, and the three samplers. [MASK] is the last token."""

    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        sizes = {"hidden_size": args.hidden, "intermediate_size": args.intermediate, "num_hidden_layers": args.layers}
        family = family_of(args.model)
        blocks = args.block if family and family.block_length else None
        heads, deviation = args.heads, args.initializer_range
        settings = ModelSection(
            **sizes, name=args.model, num_attention_heads=heads, initializer_range=deviation, block_length=blocks
        )
        self.args, self.mask_id = args, args.vocabulary - 1
        self.model: nn.Module = load_model(args.model).create(settings, args.vocabulary, self.mask_id, 0).eval()
        self.prompt = torch.randint(self.mask_id, (args.batch, args.prompt))
        self.samplers: dict[str, Callable[[], Tensor]] = {
            "uncached": lambda: self.rollout(None).tokens,
            "cached": lambda: self.rollout("block").tokens,
        }
        if args.model == "llada":
            self.samplers = {"published": self._published, **self.samplers}

    def _published(self) -> Tensor:
        args = self.args
        return published(self.model, self.prompt, args.answer, self.mask_id, args.tokens_per_step, args.block)[0]

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

    def seconds(self) -> dict[str, list[float]]:
        """CPU seconds of every repeat of every sampler; the first round, a warm-up, is left out."""
        found: dict[str, list[float]] = {name: [] for name in self.samplers}
        for repeat in range(-1, self.args.repeats):
            for name in list(self.samplers)[:: 1 if repeat % 2 else -1]:
                start = time.process_time()
                tokens = self.samplers[name]()
                elapsed = time.process_time() - start
                assert not (tokens == self.mask_id).any()
                if repeat >= 0:
                    found[name].append(elapsed)
        return found

    def replay(self) -> tuple[float, float]:
        """The largest difference of recorded and replayed log p̃ of a token, and the mean of log p̃ - log p of a path:
        how far the two laws of these weights are apart."""
        paths, length = self.rollout("block"), self.args.block
        own, other = (
            path_log_prob(self.model, self.prompt, paths, mask_id=self.mask_id, cached_blocks=blocks)
            for blocks in (length, None)
        )
        return (own - paths.log_prob).abs().max().item(), (own - other).sum(dim=1).mean().item()


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def report(args: argparse.Namespace) -> bool:
    """Print the report; returns whether the replay gives what was recorded."""
    bench = Bench(args)
    print(f"Hardware: {processor()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s).")
    print(
        f"{args.model}: hidden {args.hidden}, intermediate {args.intermediate}, {args.layers} layers, "
        f"{args.heads} heads, vocabulary {args.vocabulary}, fp32; prompt {args.prompt}, answer {args.answer}, "
        f"blocks of {args.block}, {args.tokens_per_step} tokens per step, batch {args.batch}."
    )
    print(f"CPU seconds per batch, median (min–max) of {args.repeats} repeats taken in turns.\n", flush=True)
    seconds = bench.seconds()
    first = next(iter(seconds))
    print(f"| sampler | seconds | times {first} |", "|---|---:|---:|", sep="\n")
    for name, own in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(own, seconds[first], strict=True)]
        print(f"| {name} | {spread(own, 3)} | {spread(ratios, 2)} |")
    difference, distance = bench.replay()
    exact = difference < ROUNDING and (blocks_of(bench.model) is None or abs(distance) < ROUNDING)
    print(
        f"\nRecorded = replayed: {'yes' if exact else 'NO'}, to {difference:.0e}; "
        f"mean log p̃/p of a path of these random weights {distance:+.2f}."
    )
    return exact


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, default, text in (
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
    ):
        parser.add_argument(f"--{name}", type=at_least_one, default=default, help=text)
    parser.add_argument("--model", choices=FAMILIES, default="llada", help="family")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, prompts and noise")
    parser.add_argument("--initializer-range", type=float, default=0.06, help="of the fresh weights")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    return 0 if report(args) else 1


if __name__ == "__main__":
    sys.exit(main())
