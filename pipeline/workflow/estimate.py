"""What each stage of a run costs, estimated before it starts: operations, memory and disk of one job. Torch-free.

The formulas for operations are in `flops`. Memory is the peak of one process, as in docs/llada.md; disk is what a job
writes. Chat prompts count as 200 tokens, other prompts as many as the answer.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.models.family import family_of
from pipeline.models.files import masked_lm as masked_lm_files
from pipeline.models.files.family import read_sizes
from pipeline.models.flops import CARDS, Shape
from pipeline.models.memory import Training
from pipeline.plugins import resolve_task
from pipeline.runtime.memory_limits import STATES, TOKENS
from pipeline.settings.project import Hardware
from pipeline.settings.run import Run
from pipeline.settings.sections import Evaluate, Optimizer, Rollout
from pipeline.tasks.data import Data, held_out_rows

CHAT_PROMPT = 200  # tokens: the longest of d1's prompts
GPU_FROM = 10**8  # parameters: smaller models are assumed to run on CPU cores
UTILISATION = 0.35  # assumed share of an accelerator's peak; `benchmarks/llada_gpu.py` measures it
CORE, CORE_PER_WIDTH = 60e9, 0.3e9  # operations/s of a CPU core in fp32: at most, and per unit of width D; AMD EPYC
READ, DRAWN = 12, 24  # bytes per logit that is read (fp32), and more if a token is drawn from it (fp64)
PROCESS = 0.45e9  # bytes of Python and PyTorch without a model


class Cost(NamedTuple):
    """Operations of one job, bytes of a process, and bytes that the job writes by kind, as in `retention.disk_use`."""

    flops: float
    memory: float
    disk: Mapping[str, float]


def shape_of(run: Run) -> Shape | None:
    """The sizes of the base model: from the section `model`, or from the directory `base.path`; a name on the Hub
    counts as the family's best-known checkpoint, such as LLaDA-8B. None for models that are not transformers."""
    family, path = family_of(run.model.name), Path(run.base.path or ".")
    if run.model.name == masked_lm_files.NAME and (path / "config.json").is_file():
        return Shape.of(masked_lm_files.read_sizes(path).model_dump())
    if family is None:
        return None
    if run.base.path is None:
        vocabulary = resolve_task(run.task).characters(run.base.lengths or ())
        return Shape.of({**run.model.model_dump(), "vocab_size": len(vocabulary) + 1})
    if path.is_dir():
        return Shape.of(read_sizes(path, family, run.model.block_length).model_dump())
    return Shape.of(family.published.model_dump())


class Estimate:
    """The costs of a run on a model of the given shape."""

    def __init__(self, run: Run, hardware: Hardware, shape: Shape):
        self.run, self.hardware, self.shape = run, hardware, shape
        task = resolve_task(run.task)
        self.task_length = int(task.answer_length)
        self.answer = run.rollout.length or self.task_length
        self.prompt = self.task_length if task.alphabet else CHAT_PROMPT
        self.length = self.prompt + self.answer
        self.adapters = shape.adapters(run.train.adapter) if run.rounds else 0
        self.itemsize = 2 if run.model.dtype == "bfloat16" else 4  # bytes of a weight
        self.weights = float(self.itemsize * shape.parameters)
        self.head = 4.0 * shape.vocabulary * shape.hidden if self.itemsize == 2 else 0.0
        self.passes = run.algorithm.passes(run.rollout)
        family = family_of(run.model.name)
        self.exact_cache = family is not None and family.block_length is not None
        # Bytes of a compressed row of rollouts or targets: 4 of log-probability and 1 of step for each answer token,
        # log₂ V bits for each token; K completions share a prompt.
        tokens = self.prompt / run.rollout.completions + self.answer
        self.row = 5 * self.answer + tokens * math.log2(shape.vocabulary) / 8
        self.on_gpu = shape.parameters >= GPU_FROM
        self.card = CARDS[hardware.accelerator].memory if self.on_gpu else None
        # Operations per second of one GPU or CPU core.
        gpu, core = UTILISATION * CARDS[hardware.accelerator].flops, min(CORE, CORE_PER_WIDTH * shape.hidden)
        self.speed = gpu if self.on_gpu else core

    def stages(self) -> dict[str, Cost]:
        """One job of each rule that computes with the model."""
        of_round = {"rollout": self.rollout, "reference": self.reference, "adjoint": self.adjoint, "train": self.train}
        rounds = of_round if self.run.rounds else {}
        decoding = {"evaluate" if self.run.evaluate.shards == 1 else "decode": self.evaluate}
        return {stage: cost() for stage, cost in {"base": self.base, **rounds, **decoding}.items()}

    def base(self) -> Cost:
        """Training on half-masked answers, of all weights or adapters, or a copy of a saved model."""
        base = self.run.base
        if not base.trains:
            return Cost(0.0, self.weights, {"policies": self.weights})
        lengths, flops = base.lengths or (self.task_length,), 0.0
        rows = base.updates * base.batch_size / len(lengths)
        adapters = self.shape.adapters(base.adapter)
        training = self._training(base, max(lengths), adapters)
        recompute = training.recomputes(base.gradient_checkpointing, self.card)
        for length in lengths:
            flops += self.shape.training(rows, self.prompt + length, rows * length / 2, adapters, recompute)
        return Cost(flops, PROCESS + training.bytes(recompute=recompute), {"policies": self.weights})

    def rollout(self) -> Cost:
        """One shard, L/k passes for each trajectory; a reciprocal one starts half-masked."""
        rollout = self.run.rollout
        rows = rollout.prompts * rollout.completions / rollout.shards
        chosen = rollout.order == "confidence"
        batch = max(rollout.batch_size, rollout.completions)
        drawn = batch * rollout.tokens_per_step
        read = batch * self._block_length(rollout, self.answer) if chosen else drawn
        remasked = rollout.start == "remasked"
        flops = rows * self._decoding(rollout, self.answer, everywhere=chosen, masked=_masked_at_first(rollout))
        if remasked:
            flops += rollout.prompts / rollout.shards * self._decoding(rollout, self.answer, everywhere=chosen)
        memory = self._inference_memory(batch, read, drawn)
        memory += self._cache(rollout, batch, self.answer)
        return Cost(flops, memory, {"buffers": rows * self.row})

    def reference(self) -> Cost:
        """One shard: a replay under the base of the trajectories that the method asks for."""
        rollout = self.run.rollout
        paths = self.run.algorithm.replayed(rollout) / rollout.shards
        states = min(STATES, TOKENS / self.length, paths * self.answer / rollout.tokens_per_step)
        memory = self._inference_memory(states, states * rollout.tokens_per_step)
        steps = self._block_length(rollout, self.answer) / rollout.tokens_per_step
        memory += self._cache(rollout, max(1.0, states / steps), self.answer)
        flops = paths * self._decoding(rollout, self.answer, masked=_masked_at_first(rollout))
        return Cost(flops, memory, {"buffers": paths * 5 * self.answer})

    def adjoint(self) -> Cost:
        """No model: the rows of the replay window are written."""
        rows = self.run.rollout.prompts * self.run.rollout.completions
        written = getattr(self.run.algorithm, "replay_rounds", 1) * rows * self.row
        return Cost(0.0, PROCESS, {"buffers": written})

    def train(self) -> Cost:
        """One round: the trained policy, and the frozen ones that the loss uses, on every state."""
        train, algorithm = self.run.train, self.run.algorithm
        frozen = len(algorithm.frozen_policies)
        rows = float(train.updates * train.batch_size * self.passes)
        read = rows * self.answer * algorithm.share_read
        copies = 0 if self.adapters else frozen
        whole = algorithm.held_whole(self.run.rollout, self.answer)
        training = self._training(train, self.answer, self.adapters, self.passes, copies, whole)
        recompute = training.recomputes(train.gradient_checkpointing, self.card)
        flops = self.shape.training(rows, self.length, read, self.adapters, recompute)
        flops += frozen * self.shape.forward(rows, self.length, read, self.adapters)
        trained = float(self.adapters or self.shape.parameters)
        state = 12 if self.itemsize == 2 else 8  # two moments, and the master copy of a bfloat16 weight
        disk = {"policies": self.itemsize * trained, "optimizer": state * trained}
        return Cost(flops, PROCESS + training.bytes(recompute=recompute), disk)

    def evaluate(self) -> Cost:
        """One shard: held-out items by each sampler at each length, or by the algorithm if it decodes itself."""
        evaluate, algorithm, task = self.run.evaluate, self.run.algorithm, self.run.task
        data = getattr(task, "data", None)
        items = (held_out_rows(data) if isinstance(data, Data) else None) or int(getattr(task, "test_items", 512))
        items += getattr(task, "hard_items", 0) + getattr(task, "validation_items", 0)
        lengths, flops = evaluate.lengths or (self.task_length,), 0.0
        for length in lengths:
            for sampler in evaluate.samplers:
                flops += self._decoding(evaluate, length, everywhere=sampler != "ancestral")
            states, passes, positions = algorithm.own_decoding(length, evaluate.tokens_per_step)
            flops += self.shape.forward(passes, self.prompt + length, positions)
        rows, longest = evaluate.batch_size * states, max(lengths)
        read = longest if states > 1 else self._block_length(evaluate, longest)
        memory = self._inference_memory(rows, rows * read, answer=longest) + self._cache(evaluate, rows, longest)
        return Cost(items / evaluate.shards * flops, memory, {})

    @staticmethod
    def _block_length(section: Rollout | Evaluate, length: int) -> int:
        return min(section.block_length or length, length)

    def _decoding(
        self, section: Rollout | Evaluate, length: int, *, everywhere: bool = False, masked: float = 1.0
    ) -> float:
        """Operations of one answer, of which a share is `masked`, in L/k steps. The head runs on the tokens that are
        revealed, or `everywhere` in the block that is masked, on average half of it. With a block cache one step of a
        block passes the whole sequence, with an exact cache one step of an answer; the others pass the block alone.
        Adapters are merged."""
        whole, block = self.prompt + length, self._block_length(section, length)
        steps = masked * length / section.tokens_per_step
        read = steps * block / 2 if everywhere else masked * length
        blocks = 1 if self.exact_cache else math.ceil(length / block)
        full = min(steps, blocks) if section.cache else steps
        flops = self.shape.forward(full, whole, read)
        return flops + self.shape.forward(steps - full, block, 0, keys=whole)

    def _cache(self, section: Rollout | Evaluate, rows: float, answer: int) -> float:
        """Bytes of the keys and values of `rows` sequences; 0 without a cache."""
        return rows * (self.prompt + answer) * self.shape.keys_and_values * self.itemsize if section.cache else 0.0

    def _inference_memory(self, rows: float, read: float, drawn: float = 0.0, answer: int = 0) -> float:
        """Weights, the activations of one block, the logits that are read, and the head in fp32."""
        logits = (READ * read + DRAWN * drawn) * self.shape.vocabulary
        tokens = rows * (self.prompt + (answer or self.answer))
        per_token = Training(self.shape, rows, self.prompt, self.answer, self.itemsize).activations()
        return PROCESS + self.weights + tokens * per_token + logits + self.head

    def _training(
        self, section: Optimizer, answer: int, adapters: int = 0, passes: int = 1, copies: int = 0, whole: int = 0
    ) -> Training:
        """The sizes of one process of a training job."""
        processes = self.hardware.processes
        return Training(
            self.shape,
            rows=passes * section.batch_size / (section.gradient_accumulation_steps * processes),
            prompt=self.prompt,
            answer=answer,
            itemsize=self.itemsize,
            adapters=adapters,
            copies=copies,
            whole=whole,
            parts=processes if self.hardware.sharding == "full" else 1,
            compiled=self.on_gpu and self.hardware.compile is not False,
        )


def _masked_at_first(rollout: Rollout) -> float:
    """The share of an answer that is masked where completions start."""
    return 0.5 if rollout.start == "remasked" else 1.0
