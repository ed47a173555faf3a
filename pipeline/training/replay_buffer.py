"""The replay buffer: rows with weights → batches of (state, completions, weights), the same for any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.ctmc.masking import remask, state_before, stratified_counts
from pipeline.runtime.random_streams import Stream, torch_generator
from pipeline.storage.parquet import matrix
from pipeline.text.tokenizer import PADDING

States = Literal[
    "remasked_completions", "weighted_completions", "complementary_masks", "starting_states", "path_states"
]
REPLICATES = 4
"""States of a completion under `complementary_masks`: two masks and their complements."""
LEAST_MASKED = 0.1
"""Of the answer, in each of the two masks, on average."""


@dataclass(frozen=True)
class Batch:
    """n states x with their completions; K = 1 where a state is one re-masked completion, or one step of its path.

    `loss_positions` are those of each completion that the loss reads. `noise` are uniforms in [0, 1) for losses that
    mask or sample: they belong to the row, one for each token of prompt and answer and one for the row itself, which is
    the last, so that they do not depend on how the batch is cut. `PADDING` stands left of shorter prompts.
    """

    prompt: Int[Tensor, "n P"]
    state: Int[Tensor, "n L"]
    tokens: Int[Tensor, "n K L"]
    weight: Float[Tensor, "n K"]
    loss_positions: Bool[Tensor, "n K L"]
    noise: Float[Tensor, "n T"]

    def rows(self, rows: slice) -> "Batch":
        """Some of the rows, without what is padding in all of them."""
        part = Batch(**{name: value[rows] for name, value in vars(self).items()})
        shown = (part.prompt != PADDING).any(dim=0)
        first = int(shown.int().argmax()) if shown.any() else 0
        return replace(part, prompt=part.prompt[:, first:], noise=part.noise[:, first:])

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Replay:
    """Groups of completions, and how training draws its states from them, as `states` says.

    `remasked_completions`: a completion X_1^(k) is drawn with probability ∝ W_k, and re-masked at a fresh level each
        time: x ~ p*_t with the target X_1.
    `weighted_completions`: likewise, but every completion is drawn equally often and W_k stays with it.
    `complementary_masks`: as `weighted_completions`, each completion under two masks, whose levels are uniform in
        [0.1, 1), and under their complements.
    `starting_states`: the states that the K completions started from, with all K of them.
    `path_states`: a completion and one of its steps, uniformly: the state before it, and what it revealed.

    `jumps: all` reads every masked position of x; `jumps: first` the positions that a completion reveals first
    (after re-masking, one masked position at random: the order is exchangeable).

    With `block_length`, re-masked states are those that a rollout in blocks passes through: all later blocks masked,
    the active one in part; the loss reads the active block.
    """

    prompt: Int[Tensor, "g P"]
    start: Int[Tensor, "g L"]
    tokens: Int[Tensor, "g K L"]
    unmask_step: Int[Tensor, "g K L"]
    weight: Float[Tensor, "g K"]
    mask_id: int
    states: States = "remasked_completions"
    jumps: Literal["first", "all"] = "all"
    block_length: int | None = None

    @classmethod
    def of_texts(cls, prompt: Int[Tensor, "g P"], answer: Int[Tensor, "g L"], mask_id: int) -> "Replay":
        """A corpus: one completion each, all of weight 1."""
        tokens = answer[:, None]
        everything = torch.full_like(answer, mask_id)
        return cls(prompt, everything, tokens, torch.zeros_like(tokens), torch.ones(len(answer), 1), mask_id)

    @classmethod
    def of_targets(
        cls,
        table: pa.Table,
        completions: int,
        mask_id: int,
        states: States,
        jumps: Literal["first", "all"] = "all",
        block_length: int | None = None,
    ) -> "Replay":
        """Rows of `parquet.TARGETS`, the K completions of a group one after the other."""

        def groups(name: str, fill: int | None = None) -> Tensor:
            column = torch.from_numpy(matrix(table, name, fill)).long()
            return column.view(-1, completions, column.shape[1])

        weight = torch.from_numpy(table.column("weight").to_numpy().copy()).view(-1, completions)
        prompt, start = groups("prompt_tokens", PADDING)[:, 0], groups("start")[:, 0]
        tokens, step = groups("tokens"), groups("unmask_step")
        return cls(prompt, start, tokens, step, weight, mask_id, states, jumps, block_length)

    def batches(self, updates: int, batch_size: int, seed: int, stream: Stream, round_: int) -> Iterator[Batch]:
        """`updates` batches. Batch number s is a function of (seed, stream, round, s) and the rows alone.

        Rows of a batch are sorted by the length of their prompts, so that parts of it hold little padding.
        """
        order = torch_generator(seed, stream, round_)
        weight, draw = {
            "remasked_completions": (self.weight, self._remasked),
            "weighted_completions": (torch.ones_like(self.weight), self._weighted),
            "complementary_masks": (torch.ones_like(self.weight), self._complementary),
            "starting_states": (torch.ones(len(self.weight)), self._starting),
            "path_states": (torch.ones_like(self.weight), self._on_path),
        }[self.states]
        drawn = systematic(weight.flatten(), updates * batch_size, order).split(batch_size)
        padding = (self.prompt == PADDING).sum(dim=1)
        per_group = weight.numel() // len(padding)
        for step, index in enumerate(drawn):
            generator = torch_generator(seed, stream, round_, step)
            longest_last = padding[index // per_group].argsort(descending=True, stable=True)
            yield draw(index[longest_last], generator)

    def _remasked(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        batch = self._weighted(index, generator)
        return replace(batch, weight=torch.ones(len(index), 1))

    def _weighted(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        free, length = self.start[index // self.tokens.shape[1]] == self.mask_id, self.tokens.shape[2]
        noise = torch.rand(len(index), length, generator=generator)
        count, active = stratified_counts(len(index), length, generator), torch.ones_like(free)
        if self.block_length:
            block = torch.arange(length) // self.block_length
            active = block == ((length - count) // self.block_length)[:, None]
            later = block > ((length - count) // self.block_length)[:, None]
            noise = torch.where(active, noise, torch.where(later, -1.0, 2.0))
        masked = remask(count, noise) & free
        read = masked & active
        first = noise.masked_fill(~read, 2.0)
        loss_positions = read if self.jumps == "all" else read & (first == first.amin(dim=1, keepdim=True))
        return self._batch(index, masked, loss_positions, generator)

    def _complementary(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        count, length = -(-len(index) // REPLICATES), self.tokens.shape[2]
        level = LEAST_MASKED + (1 - LEAST_MASKED) * torch.rand(count, 2, 1, generator=generator)
        mask = torch.rand(count, 2, length, generator=generator) < level
        masked = torch.cat([mask, ~mask], dim=1).flatten(0, 1)[: len(index)]
        return self._batch(index[:count].repeat_interleave(REPLICATES)[: len(index)], masked, masked, generator)

    def _batch(
        self,
        index: Int[Tensor, " n"],
        masked: Bool[Tensor, "n L"],
        loss_positions: Bool[Tensor, "n L"],
        generator: torch.Generator,
    ) -> Batch:
        """The completions of these numbers, masked, with their weights."""
        group, sample = index // self.tokens.shape[1], index % self.tokens.shape[1]
        tokens, weight = self.tokens[group, sample], self.weight[group, sample, None].float()
        state, noise = torch.where(masked, self.mask_id, tokens), self._noise(index, generator)
        return Batch(self.prompt[group], state, tokens[:, None], weight, loss_positions[:, None], noise)

    def _starting(self, group: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        tokens, state = self.tokens[group], self.start[group]
        masked = (state == self.mask_id)[:, None].expand_as(tokens)
        loss_positions = masked if self.jumps == "all" else self.unmask_step[group] == 0
        weight, noise = self.weight[group].float(), self._noise(group, generator)
        return Batch(self.prompt[group], state, tokens, weight, loss_positions, noise)

    def _on_path(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        group, sample = index // self.tokens.shape[1], index % self.tokens.shape[1]
        tokens, unmask_step = self.tokens[group, sample], self.unmask_step[group, sample]
        steps = unmask_step.amax(dim=1, keepdim=True) + 1
        step = (torch.rand(len(index), 1, generator=generator) * steps).long()
        state = state_before(tokens, unmask_step, step, self.mask_id)
        weight, loss_positions = self.weight[group, sample, None].float(), (unmask_step == step)[:, None]
        return Batch(self.prompt[group], state, tokens[:, None], weight, loss_positions, self._noise(index, generator))

    def _noise(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n T"]:
        return torch.rand(len(index), self.prompt.shape[1] + self.start.shape[1] + 1, generator=generator)


def systematic(weight: Float[Tensor, " m"], draws: int, generator: torch.Generator) -> Int[Tensor, " draws"]:
    """Row indices in random order, row j ⌊c⌋ or ⌈c⌉ times with mean c = draws · w_j / Σ w (systematic resampling)."""
    cumulative = weight.double().cumsum(0)
    points = (torch.arange(draws) + torch.rand(1, generator=generator, dtype=torch.float64)) / draws
    index = torch.searchsorted(cumulative, points * cumulative[-1], right=True).clamp(max=len(weight) - 1)
    return index[torch.randperm(draws, generator=generator)]
