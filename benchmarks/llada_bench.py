"""A model with random weights on a device, and measurements of it: what `benchmarks.llada_gpu` puts into tables."""

import argparse
import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipeline.models import adapters
from pipeline.models.base import recompute_layers
from pipeline.models.flops import Shape
from pipeline.models.llada import PLUGIN
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.compilation import compile_blocks
from pipeline.runtime.distributed import device, processes
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.ancestral import rollout
from pipeline.settings.sections import Adapter, ModelSection, Train
from pipeline.training.adamw import AdamW
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import fit
from pipeline.training.replay_buffer import Batch, Replay
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

CACHES = ("none", "block")
WARM_UP = 2
"""Updates that are not timed: they compile, and allocate the optimiser's state."""


@dataclass(frozen=True)
class Row:
    """One measurement: tokens of all processes, seconds, operations of one process, its peak memory in bytes."""

    what: str
    batch: int
    processes: int
    tokens: int
    seconds: float
    flops: float
    memory: int
    first_seconds: float
    """Of the same work before, with compiling."""


class Bench:
    """A model with random weights on the device of this process."""

    def __init__(self, args: argparse.Namespace):
        torch._dynamo.reset()  # compiled graphs and cycles keep the memory of the model before
        gc.collect()
        self.args = args
        settings, self.vocabulary = SHAPES[args.shape]
        self.mask_id = self.vocabulary - 1
        torch.manual_seed(0)
        with device(), default_type(torch.bfloat16):
            self.model = PLUGIN.create(settings, self.vocabulary, self.mask_id, 0).eval()
        config: Any = self.model.config
        self.shape = Shape.of(config.to_dict())
        self.adapter = Adapter(rank=max(1, self.shape.hidden // 32))  # 128 for LLaDA-8B

    def add_adapters(self) -> None:
        with device():
            adapters.train(self.model, self.adapter, Path("base"), Path("policy"))

    def prompt(self, rows: int) -> Tensor:
        return torch.randint(self.mask_id, (rows, self.args.prompt), device=device())

    def rollout(self, batch: int, cache: str) -> Row:
        """The last block of `batch` answers, of which the other blocks are given."""
        first = self._seconds(lambda: self.sample(batch, cache))
        reset_memory()
        with Meter(self.model) as meter:
            self.sample(batch, cache)
        tokens = batch * min(self.args.block, self.args.answer)
        return Row("", batch, 1, tokens, meter.seconds, meter.flops, peak_memory(), first)

    def sample(self, batch: int, cache: str) -> None:
        start = torch.randint(self.mask_id, (batch, self.args.answer), device=device())
        start[:, -self.args.block :] = self.mask_id
        order, token = torch.rand(2, *start.shape, dtype=torch.float64, device=device())
        rollout(
            self.model,
            self.prompt(batch),
            start,
            mask_id=self.mask_id,
            order_noise=order,
            token_noise=token,
            tokens_per_step=self.args.tokens_per_step,
            block_length=self.args.block,
            cache=None if cache == "none" else cache,
        )

    def train(self, batch: int, recompute: bool) -> Row:
        """`updates` steps of AdamW on the adapters, each on `batch` re-masked answers per process."""
        updates, size = WARM_UP + self.args.updates, batch * processes()
        answers = torch.randint(self.mask_id, (size, self.args.answer))
        replay = Replay.of_texts(self.prompt(size).cpu(), answers, self.mask_id)
        settings = Train(batch_size=size, gradient_checkpointing=recompute)
        if recompute:
            recompute_layers(self.model)
        else:
            self.model.activation_checkpointing_disable()  # type: ignore[operator]
        meter = Meter(self.model, recompute=recompute)
        begun = now()

        def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
            for number, piece in enumerate(batches):
                if number == WARM_UP:
                    self.first = now() - begun
                    reset_memory()
                    meter.__enter__()
                yield piece

        with tempfile.TemporaryDirectory() as folder:
            fit(
                self.model,
                AdamW(self.model, settings),
                watched(replay.batches(updates, size, 0, Stream.REPLAY, 1)),
                weighted_cross_entropy,
                lambda number: 1e-5,
                settings,
                Checkpoint(Path(folder) / "checkpoint", "", interval=float("inf")),
                seed=0,
                round_=1,
                updates=updates,
                title="train",
            )
        meter.__exit__()
        tokens, count = processes() * meter.positions // self.args.updates, self.args.updates
        seconds, flops = meter.seconds / count, meter.flops / count
        return Row("", batch, processes(), tokens, seconds, flops, peak_memory(), self.first)

    def _seconds(self, work: Callable[[], object]) -> float:
        begun = now()
        work()
        return now() - begun


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def product_speed(size: int) -> float:
    """Operations per second of a square bfloat16 product, the best of five."""
    left, right = torch.randn(2, size, size, device=device(), dtype=torch.bfloat16)
    seconds = []
    for _ in range(6):
        started = now()
        left @ right
        seconds.append(now() - started)
    return 2 * size**3 / min(seconds[1:])


def set_compiled(model: torch.nn.Module, compiled: bool) -> None:
    """Compile the blocks, or undo that."""
    for part in model.modules():
        part._compiled_call_impl = None
    compile_blocks(model, compiled)


def top(work: Callable[[], object], count: int) -> list[tuple[str, int, float, float]]:
    """The operators that take most of the device's time: name, calls, milliseconds, share."""
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        work()
    entries = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event.key, event.count)
        for event in profiler.key_averages()
    ]
    total = sum(spent for spent, _, _ in entries) or 1
    return [(name, calls, spent / 1e3, spent / total) for spent, name, calls in sorted(entries, reverse=True)[:count]]
