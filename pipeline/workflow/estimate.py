"""What a run costs before it starts: operations, memory and disk of one job of each stage. Torch-free.

Operations are those of `flops`. Memory is that of one process at its peak, calculated as docs/llada.md says; disk is
what a job leaves. Chat prompts are taken as 200 tokens, compact ones as long as the answer.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.flops import ACCELERATORS, LLADA_8B, Shape
from pipeline.plugins import resolve_task
from pipeline.runtime.memory_limits import CHUNK, STATES, TOKENS
from pipeline.settings.algorithms import Svdd
from pipeline.settings.run import Run
from pipeline.settings.sections import Evaluate, Hardware, Optimizer, Rollout

CHAT_PROMPT = 200
"""Tokens; the longest of d1's prompts."""

TEST_ITEMS = {"gsm8k": 1319, "math500": 500}
"""Held-out items of the data sets on the Hub; elsewhere the section `task` says how many there are."""

GPU_FROM = 10**8
"""Parameters: smaller models are reckoned on CPU cores."""

UTILISATION = 0.35
"""Share of an accelerator's peak that is assumed until `benchmarks/llada_gpu.py` has measured it."""

CORE, CORE_PER_WIDTH = 60e9, 0.3e9
"""Operations per second of a CPU core in fp32: at most, and for each unit of width D, as measured on an AMD EPYC."""

READ, DRAWN = 12, 24
"""Bytes for each logit of a posterior, at most: in fp32 as it comes, tempered and normalised; in fp64 to draw from."""

PROCESS = 0.45e9
"""Bytes of Python and PyTorch themselves."""


@dataclass(frozen=True)
class Cost:
    """Of one job: operations; bytes of a process; bytes on disk."""

    flops: float
    memory: float
    disk: float


def shape_of(run: Run) -> Shape | None:
    """Of the base: as `model` says, as the config.json of `base.path` says, or for a name on the Hub that of LLaDA-8B.

    None for models that are no transformers.
    """
    if run.model.name != "llada":
        return None
    if run.base.path is None:
        vocabulary = resolve_task(run.task).characters(run.base.lengths or ())
        return Shape.of({**run.model.model_dump(), "vocab_size": len(vocabulary) + 1})
    config = Path(run.base.path) / "config.json"
    return Shape.of(json.loads(config.read_text())) if config.is_file() else LLADA_8B


@dataclass(frozen=True)
class Estimate:
    """The costs of a run on a model of the given shape."""

    run: Run
    hardware: Hardware
    shape: Shape

    def stages(self) -> dict[str, Cost]:
        """Of one job of each rule that computes with the model."""
        rounds = (
            {name: getattr(self, name) for name in ("rollout", "reference", "adjoint", "train")}
            if self.run.rounds
            else {}
        )
        return {stage: cost() for stage, cost in ({"base": self.base} | rounds | {"evaluate": self.evaluate}).items()}

    @property
    def on_gpu(self) -> bool:
        return self.shape.parameters >= GPU_FROM

    @property
    def speed(self) -> float:
        """Operations per second of one GPU, or one CPU core."""
        if self.on_gpu:
            return UTILISATION * ACCELERATORS[self.hardware.accelerator]
        return min(CORE, CORE_PER_WIDTH * self.shape.hidden)

    @property
    def headline(self) -> int:
        """The task's own number of answer tokens."""
        return int(resolve_task(self.run.task).answer_length)

    @property
    def answer(self) -> int:
        """Of rollouts."""
        return self.run.rollout.length or self.headline

    @property
    def prompt(self) -> int:
        return self.headline if resolve_task(self.run.task).alphabet else CHAT_PROMPT

    @property
    def length(self) -> int:
        return self.prompt + self.answer

    @property
    def adapters(self) -> int:
        return self.shape.adapters(self.run.train.adapter) if self.run.rounds else 0

    @property
    def weights(self) -> float:
        """b P"""
        return float(self._bytes * self.shape.parameters)

    def base(self) -> Cost:
        """Pre-training on answers of which half is masked, or a copy of a saved model."""
        base = self.run.base
        if base.path or base.exact:
            return Cost(0.0, self.weights, self.weights)
        lengths, flops = base.lengths or (self.headline,), 0.0
        rows = base.updates * base.batch_size / len(lengths)
        for length in lengths:
            tokens = self.prompt + length
            flops += self.shape.training(rows, tokens, rows * length / 2, recompute=base.gradient_checkpointing)
        return Cost(flops, self._training_memory(base, adapters=0, answer=max(lengths)), self.weights)

    def rollout(self) -> Cost:
        """One shard: L/k passes for each trajectory; a reciprocal one starts from a state of which half is masked."""
        rollout = self.run.rollout
        rows = rollout.prompts * rollout.completions / rollout.shards
        paths = rows if rollout.start == "empty" else rows / 2 + rollout.prompts / rollout.shards
        chosen = rollout.order == "confidence"
        drawn = rollout.batch_size * rollout.tokens_per_step
        read = rollout.batch_size * self._block_length(rollout, self.answer) if chosen else drawn
        flops = paths * self._decoding(rollout, self.answer, everywhere=chosen)
        return Cost(flops, self._inference_memory(rollout.batch_size, read, drawn), rows * self._row)

    def reference(self) -> Cost:
        """One shard: the base along the trajectories that the method wants replayed."""
        rollout = self.run.rollout
        paths = self.run.algorithm.replayed(rollout) / rollout.shards
        states = min(STATES, TOKENS / self.length, paths * self.answer / rollout.tokens_per_step)
        memory = self._inference_memory(states, states * rollout.tokens_per_step)
        return Cost(paths * self._decoding(rollout, self.answer), memory, paths * 5 * self.answer)

    def adjoint(self) -> Cost:
        """No model: rows of the replay window."""
        rollout = self.run.rollout
        kept = getattr(self.run.algorithm, "replay_rounds", 1) * rollout.prompts * rollout.completions
        return Cost(0.0, PROCESS, kept * self._row)

    def train(self) -> Cost:
        """One round: the policy that trains, and the frozen ones that the loss asks, on every state."""
        train, algorithm = self.run.train, self.run.algorithm
        frozen = len(algorithm.frozen_policies)
        rows = float(train.updates * train.batch_size * self._passes)
        read = rows * self.answer * (1.0 if algorithm.name == "diffu_grpo" else 0.5)
        flops = self.shape.training(rows, self.length, read, self.adapters, train.gradient_checkpointing)
        flops += frozen * self.shape.forward(rows, self.length, read, self.adapters)
        copies = 0.0 if self.adapters else frozen * self.weights
        policy = 4.0 * self.adapters or self.weights
        optimizer = 8 * self.adapters or (12 if self._bytes == 2 else 8) * self.shape.parameters
        memory = self._training_memory(train, self.adapters, copies, self._passes)
        return Cost(flops, memory, policy + optimizer)

    def evaluate(self) -> Cost:
        """The held-out items by each sampler at each length; a method that only decodes takes ancestral's place."""
        evaluate, algorithm, task = self.run.evaluate, self.run.algorithm, self.run.task
        items = TEST_ITEMS.get(task.name, int(getattr(task, "test_items", 512)))
        items += getattr(task, "hard_items", 0) + getattr(task, "validation_items", 0)
        guided = algorithm if isinstance(algorithm, Svdd) else None
        lengths, flops = evaluate.lengths or (self.headline,), 0.0
        for length in lengths:
            flops += self._decoding(evaluate, length, everywhere=True) * ("greedy" in evaluate.samplers)
            flops += self._decoding(evaluate, length) * ("ancestral" in evaluate.samplers)
            flops += self._guidance(guided, length) if guided else 0.0
        rows, read = evaluate.batch_size, self._block_length(evaluate, max(lengths))
        if guided:
            rows *= guided.candidates * (guided.lookahead if guided.value == "mc" else 1)
            read = max(lengths)
        return Cost(items * flops, self._inference_memory(rows, rows * read, answer=max(lengths)), 0.0)

    @staticmethod
    def _block_length(section: Rollout | Evaluate, length: int) -> int:
        return min(section.block_length or length, length)

    def _decoding(self, section: Rollout | Evaluate, length: int, *, everywhere: bool = False) -> float:
        """Operations of one answer in L/k steps: the head where tokens are revealed, or `everywhere` that is masked in
        the block, half of it on average."""
        steps = length / section.tokens_per_step
        read = steps * self._block_length(section, length) / 2 if everywhere else length
        return self.shape.forward(steps, self.prompt + length, read, self.adapters)

    def _guidance(self, algorithm: Svdd, length: int) -> float:
        """Values of N candidates in each step: one pass (pm), or `lookahead` times the L/2 single steps left (mc)."""
        passes = algorithm.candidates * length / self.run.evaluate.tokens_per_step
        if algorithm.value == "pm":
            return self.shape.forward(passes, self.prompt + length, passes * length / 2)
        passes *= algorithm.lookahead * length / 2
        return self.shape.forward(passes, self.prompt + length, passes)

    @property
    def _bytes(self) -> int:
        return 2 if self.run.model.dtype == "bfloat16" else 4

    @property
    def _passes(self) -> int:
        """Sequences for each state of a batch: coupled-GRPO masks each completion twice."""
        return 1 + 2 * self.run.rollout.completions if self.run.algorithm.name == "coupled_grpo" else 1

    @property
    def _row(self) -> float:
        """A row of rollouts or targets, compressed: for each token of the answer 4 bytes of log-probability, 1 of its
        step and log₂ V bits; K completions share a prompt."""
        tokens = self.prompt / self.run.rollout.completions + self.answer
        return 5 * self.answer + tokens * math.log2(self.shape.vocabulary) / 8

    def _inference_memory(self, rows: float, read: float, drawn: float = 0.0, answer: int = 0) -> float:
        """Weights, one block's activations, the logits that are read, and the head in fp32."""
        logits = (READ * read + DRAWN * drawn) * self.shape.vocabulary
        tokens = rows * (self.prompt + (answer or self.answer))
        return PROCESS + self.weights + 4 * self.adapters + self._block(tokens) + logits + self._head

    def _training_memory(
        self, section: Optimizer, adapters: int, copies: float = 0.0, passes: int = 1, answer: int = 0
    ) -> float:
        """Weights, what trains (16 bytes a parameter, the weight's included), activations, logits, head."""
        processes = self.hardware.processes
        parts = processes if self.hardware.sharding == "full" else 1
        rows = passes * section.batch_size / (section.gradient_accumulation_steps * processes)
        answer = answer or self.answer
        tokens = rows * (self.prompt + answer)
        state = 16.0 * adapters or (16.0 - self._bytes) * self.shape.parameters
        blocks = self.shape.layers * self._block(tokens, adapters)
        if section.gradient_checkpointing:
            inputs = self._bytes * tokens * self.shape.hidden * self.shape.layers
            blocks = inputs + self._block(tokens, adapters)
        logits = 12.0 * min(CHUNK, rows * answer * self.shape.vocabulary)
        return PROCESS + (self.weights + state + copies) / parts + blocks + logits + self._head

    @property
    def _head(self) -> float:
        return 4.0 * self.shape.vocabulary * self.shape.hidden if self._bytes == 2 else 0.0

    def _block(self, tokens: float, adapters: int = 0) -> float:
        """What a block keeps of each token for its gradient: 12 values of width D and 4 of width I; for adapters the
        input of each linear layer once more, in fp32 and with its dropout."""
        width, middle = self.shape.hidden, self.shape.intermediate
        kept = self._bytes * (12.0 * width + 4.0 * middle) + (7.0 * (6 * width + middle) if adapters else 0.0)
        return tokens * kept
