"""Rollouts and training steps of LLaDA-8B on one GPU, compared with the GPU's peak.

The weights are random and made on the device; sampler, loss, adapters and optimiser are the pipeline's. The floor is
the time for the operations of `pipeline.models.flops` at the GPU's peak or, if that is unknown, at the speed of a large
matrix product.

    python -m benchmarks.llada_gpu
    python -m benchmarks.llada_gpu --shape small --device cpu --prompt 17 --answer 32 --batch 4 --train-batch 4
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.rollout import at_least_one
from pipeline.models import adapters
from pipeline.models.flops import Shape, peak
from pipeline.models.llada import create, recompute
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.ancestral import rollout
from pipeline.settings.sections import Adapter, ModelSection, Train
from pipeline.storage.provenance import processor
from pipeline.training.adamw import AdamW
from pipeline.training.replay_buffer import Replay
from pipeline.training.throughput import Meter, now

SHAPES = {
    "8b": (
        ModelSection(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=32,
            num_attention_heads=32,
            rope_theta=5e5,
            initializer_range=0.02,
        ),
        126464,
    ),
    "small": (ModelSection(), 512),
}
"""Name -> the section `model` and the vocabulary size, of LLaDA-8B and of the embedded model."""

TOP = 8
"""Number of operators in a profile."""


@dataclass(frozen=True)
class Row:
    """Result of one batch size: tokens, seconds, operations, and peak memory of the device in bytes."""

    batch: int
    tokens: int
    seconds: float
    flops: float
    memory: int


class Bench:
    """A model on a device, and the measurements of it."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, torch.device(args.device)
        settings, self.vocabulary = SHAPES[args.shape]
        self.mask_id = self.vocabulary - 1
        torch.manual_seed(0)
        with self.device, default_type(torch.bfloat16):
            self.model = create(settings, self.vocabulary, self.mask_id).eval()
        self.shape = Shape.of(self.model.config.to_dict())
        self.weights = sum(value.nbytes for value in self.model.parameters())
        self.adapter = Adapter(rank=self.shape.hidden // 32)  # 128 for LLaDA-8B

    def prompt(self, rows: int) -> Tensor:
        return torch.randint(self.mask_id, (rows, self.args.prompt), device=self.device)

    def rollout(self, batch: int) -> Row:
        """Sample `batch` complete answers at once, after a few warm-up steps."""
        self.sample(batch, 4 * self.args.tokens_per_step)
        self._reset()
        with Meter(self.model) as meter:
            self.sample(batch, self.args.answer)
        return Row(batch, batch * self.args.answer, meter.seconds, meter.flops, self._memory())

    def sample(self, batch: int, masked: int) -> None:
        """Reveal the last `masked` positions of random answers."""
        start = torch.randint(self.mask_id, (batch, self.args.answer), device=self.device)
        start[:, -masked:] = self.mask_id
        order, token = torch.rand(2, *start.shape, dtype=torch.float64, device=self.device)
        noise = {"order_noise": order, "token_noise": token}
        k = self.args.tokens_per_step
        rollout(self.model, self.prompt(batch), start, mask_id=self.mask_id, tokens_per_step=k, **noise)

    def add_adapters(self) -> None:
        """Train adapters from now on, with gradient checkpointing."""
        with self.device:
            adapters.train(self.model, self.adapter, Path("base"), Path("policy"))
        recompute(self.model)
        self.optimizer = AdamW(self.model, Train())

    def train(self, batch: int) -> Row:
        """`updates` training steps on re-masked answers, after a warm-up step."""
        updates = self.args.updates
        answers = torch.randint(self.mask_id, (batch, self.args.answer))
        replay = Replay.of_texts(self.prompt(batch).cpu(), answers, self.mask_id)
        batches = [piece.to(self.device) for piece in replay.batches(updates + 1, batch, 0, Stream.REPLAY, 1)]
        self.model.train()
        meter = Meter(self.model, recompute=True)
        for number, piece in enumerate(batches):
            if number == 1:
                self._reset()
                meter = Meter(self.model, recompute=True)
            with meter:
                weighted_cross_entropy(self.model, piece, self.mask_id).mean().backward()
                nn.utils.clip_grad_norm_(self.optimizer.trained.values(), 0.2)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.model.eval()
        return Row(batch, meter.positions // updates, meter.seconds / updates, meter.flops / updates, self._memory())

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def product_speed(device: torch.device, size: int) -> float:
    """Operations per second of a square bfloat16 product, the best of five."""
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(6):
        started = now()
        left @ right
        seconds.append(now() - started)
    return 2 * size**3 / min(seconds[1:])


def table(measure: Callable[[int], Row], batches: list[int], best: float) -> list[str]:
    """A Markdown table with a line per batch size, until one does not fit in memory."""
    lines = [
        "| batch | seconds | floor | tokens/s | TFLOP/s | share of the peak | GB |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for batch in batches:
        try:
            row = measure(batch)
        except torch.OutOfMemoryError:
            lines.append(f"| {batch} | out of memory | | | | | |")
            break
        speed = row.flops / row.seconds
        lines.append(
            f"| {batch} | {row.seconds:.3g} | {row.flops / best:.3g} | {row.tokens / row.seconds:.4g} |"
            f" {speed / 1e12:.3g} | {speed / best:.0%} | {f'{row.memory / 1e9:.1f}' if row.memory else '–'} |"
        )
    return lines


def top(work: Callable[[], object], device: torch.device) -> list[str]:
    """A Markdown table of the operators that take most of the device's time."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        work()
    entries = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event.key, event.count)
        for event in profiler.key_averages()
    ]
    total = sum(spent for spent, _, _ in entries) or 1
    lines = ["| operator | calls | ms | share |", "|---|---:|---:|---:|"]
    for spent, name, count in sorted(entries, reverse=True)[:TOP]:
        lines.append(f"| `{name[:60]}` | {count} | {spent / 1e3:.4g} | {spent / total:.0%} |")
    return lines


def report(args: argparse.Namespace) -> None:
    bench = Bench(args)
    device = bench.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    product = product_speed(device, args.product)
    known = peak(name)
    best = known or product
    print(
        f"Hardware: {name}, torch {torch.__version__}; a bfloat16 product of {args.product}³ runs at"
        f" {product / 1e12:.3g} TFLOP/s. Shares and floors are of {best / 1e12:.4g} TFLOP/s,"
        f" {'the peak that the maker states' if known else 'that product'}."
    )
    trained = bench.shape.adapters(bench.adapter)
    print(
        f"Shape: {bench.shape.parameters:,} random parameters in bfloat16, {bench.weights / 1e9:.3g} GB;"
        f" {trained:,} in adapters of rank {bench.adapter.rank}, {16 * trained / 1e9:.3g} GB to train them;"
        f" prompt {args.prompt}, answer {args.answer}, {args.tokens_per_step} tokens per step."
    )
    section("Rollouts: a batch of answers; tokens of answers", table(bench.rollout, args.batch, best))
    small, steps = args.batch[0], 4 * args.tokens_per_step
    section(f"Operators of four steps at batch {small}", top(lambda: bench.sample(small, steps), device))
    bench.add_adapters()
    title = "Training: a step with LoRA, gradient checkpointing and AdamW; tokens of prompts and answers"
    section(title, table(bench.train, args.train_batch, best))
    small = args.train_batch[0]
    section(f"Operators of {args.updates + 1} steps at batch {small}", top(lambda: bench.train(small), device))


def section(title: str, lines: list[str]) -> None:
    print(f"\n{title}.\n", *lines, sep="\n", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--shape", choices=SHAPES, default="8b" if cuda else "small", help="of the model")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="where it runs")
    for option, default, text in (
        ("prompt", 200, "prompt tokens"),
        ("answer", 256, "answer tokens"),
        ("tokens-per-step", 2, "positions revealed per step"),
        ("updates", 3, "timed training steps"),
        ("product", 8192 if cuda else 1024, "size of the matrix product that is timed"),
    ):
        parser.add_argument(f"--{option}", type=at_least_one, default=default, help=text)
    for option, sizes, text in (
        ("batch", [1, 4, 8, 16, 32, 64], "answers sampled at once"),
        ("train-batch", [1, 2, 4, 8, 16], "sequences of a training step"),
    ):
        parser.add_argument(f"--{option}", type=at_least_one, nargs="+", default=sizes, help=text)
    report(parser.parse_args(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
