"""The replay buffer: weighted rows → batches of (state, completions, weights), whatever the number of processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.ctmc.masking import REVEALED, block_by_block, remask, stratified_counts
from pipeline.runtime.random_streams import Stream, torch_generator
from pipeline.samplers.unmasking_order import block_of
from pipeline.settings.sections import Rollout
from pipeline.storage.parquet import matrix
from pipeline.text.tokenizer import PADDING

States = Literal[
    "remasked_completions", "weighted_completions", "complementary_masks", "starting_states", "path_states"
]
Jumps = Literal["first", "all"]
REPLICATES = 4
"""States of a completion under `complementary_masks`: two masks and their complements."""
LEAST_MASKED = 0.1
"""The smallest level of a mask: the share of the answer that it hides on average. Its complement may hide less."""


@dataclass(frozen=True)
class Batch:
    """n states x with K completions each; K = 1 if a state is a re-masked completion or a step of its path.

    `loss_positions` marks the positions of each completion that enter the loss. `noise` holds uniforms in [0, 1) for
    losses that mask or sample, one per token of prompt and answer and a last one for the row itself: they belong to the
    row, so they do not depend on how the batch is split. Shorter prompts are padded on the left with `PADDING`, shorter
    answers on the right.
    """

    prompt: Int[Tensor, "n P"]
    state: Int[Tensor, "n L"]
    tokens: Int[Tensor, "n K L"]
    weight: Float[Tensor, "n K"]
    loss_positions: Bool[Tensor, "n K L"]
    noise: Float[Tensor, "n T"]

    @property
    def read(self) -> Bool[Tensor, "n L"]:
        """The positions that enter the loss for one completion at least; a loss needs no logits of others."""
        return self.loss_positions.any(dim=1)

    def rows(self, rows: slice) -> "Batch":
        """Some of the rows, without columns that are padding in all of them."""
        part = Batch(**{name: value[rows] for name, value in vars(self).items()})
        prompt, answer = part.prompt.shape[1], part.state.shape[1]
        first = prompt - _longest(part.prompt.flip(1))
        last = _longest(part.state)
        kept = torch.cat([torch.arange(first, prompt + last), torch.tensor([prompt + answer])])
        return Batch(
            part.prompt[:, first:],
            part.state[:, :last],
            part.tokens[:, :, :last],
            part.weight,
            part.loss_positions[:, :, :last],
            part.noise[:, kept.to(part.noise.device)],
        )

    def end(self, *, without_padding: bool) -> int:
        """The place of the last column, counted from the first column of answers; or, `without_padding`, from the first
        token of the longest row."""
        if without_padding:
            return int(((self.prompt != PADDING).sum(dim=1) + (self.state != PADDING).sum(dim=1)).max())
        return self.state.shape[1]

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def _longest(tokens: Int[Tensor, "n T"]) -> int:
    """The length of the longest row without the padding at its end; T if all are padding."""
    shown = (tokens != PADDING).any(dim=0).nonzero()
    return int(shown[-1, 0]) + 1 if len(shown) else tokens.shape[1]


@dataclass(frozen=True)
class Replay:
    """Groups of K completions of one starting state. `states` says which states training draws from them:

    `remasked_completions`: draw a completion X_1^(k) with probability ∝ W_k and re-mask it at a new level each time:
        x ~ p*_t, with the target X_1.
    `weighted_completions`: likewise, but every completion is drawn equally often and keeps its weight W_k.
    `complementary_masks`: groups are drawn equally often; each of their completions keeps its weight W_k and is masked
        twice, at levels uniform in [0.1, 1), and by the complements of both masks.
    `starting_states`: the state that the K completions started from, with all K of them as targets.
    `path_states`: draw a completion and one of its steps uniformly: the state before the step, with the tokens that it
        revealed as targets.

    With `jumps: all` every masked position of x enters the loss; with `jumps: first` the positions that a completion
    reveals first (after re-masking, one masked position at random, since the order is exchangeable).

    Only positions that `start` masks are masked again and enter the loss.

    With `block_length`, re-masked states are those that a rollout in blocks passes through: all later blocks masked,
    the active one in part; only the active block enters the loss. With `blocks_from_prompt` blocks are counted from
    the first token of the prompt, as a model does that sees block by block.
    """

    prompt: Int[Tensor, "g P"]
    start: Int[Tensor, "g L"]
    tokens: Int[Tensor, "g K L"]
    unmask_step: Int[Tensor, "g K L"]
    weight: Float[Tensor, "g K"]
    mask_id: int
    states: States = "remasked_completions"
    jumps: Jumps = "all"
    block_length: int | None = None
    blocks_from_prompt: bool = False

    @classmethod
    def of_texts(
        cls,
        prompt: Int[Tensor, "g P"],
        answer: Int[Tensor, "g L"],
        mask_id: int,
        start: Int[Tensor, "g L"] | None = None,
    ) -> "Replay":
        """From a corpus: one completion of weight 1 per prompt, by default from the empty answer."""
        tokens = answer[:, None]
        start = torch.where(answer == PADDING, PADDING, mask_id) if start is None else start
        return cls(prompt, start, tokens, torch.zeros_like(tokens), torch.ones(len(answer), 1), mask_id)

    @classmethod
    def of_targets(
        cls, table: pa.Table, rollout: Rollout, mask_id: int, states: States, jumps: Jumps = "all"
    ) -> "Replay":
        """From rows of `parquet.TARGETS`, in which the K completions of a group are consecutive. Re-masked states go
        block by block if rollouts do."""

        def groups(name: str, fill: int, side: Literal["left", "right"] = "right") -> Tensor:
            column = torch.from_numpy(matrix(table, name, fill, side=side)).long()
            return column.view(len(column) // rollout.completions, rollout.completions, column.shape[1])

        weight = torch.from_numpy(table.column("weight").to_numpy().copy()).view(-1, rollout.completions)
        prompt, start = groups("prompt_tokens", PADDING, "left")[:, 0], groups("start", PADDING)[:, 0]
        tokens, step = groups("tokens", PADDING), groups("unmask_step", REVEALED)
        return cls(prompt, start, tokens, step, weight, mask_id, states, jumps, rollout.block_length)

    def batches(self, updates: int, batch_size: int, seed: int, stream: Stream, round_: int) -> Iterator[Batch]:
        """`updates` batches. Batch s is a function of (seed, stream, round, s) and the rows alone.

        The rows of a batch are sorted by the length of prompt and answer, so that parts of it need little padding.
        """
        order = torch_generator(seed, stream, round_)
        draws: dict[States, Callable[[Tensor, torch.Generator], Batch]] = {
            "remasked_completions": self._remasked,
            "weighted_completions": self._remasked,
            "complementary_masks": self._complementary,
            "starting_states": self._starting,
            "path_states": self._on_path,
        }
        padding = (self.prompt == PADDING).sum(dim=1) + (self.start == PADDING).sum(dim=1)
        for step, index in enumerate(self._drawn(updates, batch_size, order)):
            generator = torch_generator(seed, stream, round_, step)
            group = index if self.states == "starting_states" else index // self.tokens.shape[1]
            longest_last = padding[group].argsort(descending=True, stable=True)
            yield draws[self.states](index[longest_last], generator)

    def _drawn(self, updates: int, batch_size: int, order: torch.Generator) -> Iterator[Int[Tensor, " c"]]:
        """The completions of each batch; of `starting_states` the groups."""
        if self.states == "complementary_masks":
            count = self.tokens.shape[1]
            groups = batch_size // (REPLICATES * count)
            for group in systematic(torch.ones(len(self.tokens)), updates * groups, order).split(groups):
                yield (group[:, None] * count + torch.arange(count)).flatten()
            return
        weight = self.weight if self.states == "remasked_completions" else torch.ones_like(self.weight)
        weight = weight[:, 0] if self.states == "starting_states" else weight.flatten()
        yield from systematic(weight, updates * batch_size, order).split(batch_size)

    def _remasked(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        free, length = self.start[index // self.tokens.shape[1]] == self.mask_id, self.tokens.shape[2]
        noise = torch.rand(len(index), length, generator=generator)
        count, active = stratified_counts(free.sum(dim=1), generator), torch.ones_like(free)
        if self.block_length:
            block = block_of(free, self.block_length, self._offset(index))
            noise, active = block_by_block(count, noise, free, block)
        masked = remask(count, noise.masked_fill(~free, torch.inf))
        read = masked & active
        first = noise.masked_fill(~read, 2.0)
        loss_positions = read if self.jumps == "all" else read & (first == first.amin(dim=1, keepdim=True))
        return self._batch(index, masked, loss_positions, self._noise(index, generator))

    def _offset(self, index: Int[Tensor, " n"]) -> Int[Tensor, "n 1"] | int:
        """How many tokens of each completion's prompt are in the first block of its answer."""
        if not self.blocks_from_prompt or not self.block_length:
            return 0
        prompt = self.prompt[index // self.tokens.shape[1]]
        return (prompt != PADDING).sum(dim=1, keepdim=True) % self.block_length

    def _complementary(self, index: Int[Tensor, " c"], generator: torch.Generator) -> Batch:
        """Each completion under two masks and their complements; these four rows follow each other."""
        length = self.tokens.shape[2]
        level = LEAST_MASKED + (1 - LEAST_MASKED) * torch.rand(len(index), 2, 1, generator=generator)
        mask = torch.rand(len(index), 2, length, generator=generator) < level
        masked = torch.cat([mask, ~mask], dim=1).flatten(0, 1)
        repeated = index.repeat_interleave(REPLICATES)
        masked &= self.start[repeated // self.tokens.shape[1]] == self.mask_id
        return self._batch(repeated, masked, masked, self._noise(repeated, generator))

    def _batch(
        self, index: Int[Tensor, " n"], masked: Bool[Tensor, "n L"], loss_positions: Bool[Tensor, "n L"], noise: Tensor
    ) -> Batch:
        """The completions of these numbers, masked, with their weights."""
        prompt, tokens = self.prompt[index // self.tokens.shape[1]], self.tokens.flatten(0, 1)[index]
        weight = self.weight.flatten()[index, None].float()
        if self.states == "remasked_completions":  # the weight decided how often it is drawn
            weight = torch.ones_like(weight)
        state = torch.where(masked, self.mask_id, tokens)
        return Batch(prompt, state, tokens[:, None], weight, loss_positions[:, None], noise)

    def _starting(self, group: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        tokens, state = self.tokens[group], self.start[group]
        masked = (state == self.mask_id)[:, None].expand_as(tokens)
        loss_positions = masked if self.jumps == "all" else self.unmask_step[group] == 0
        weight, noise = self.weight[group].float(), self._noise(group, generator)
        return Batch(self.prompt[group], state, tokens, weight, loss_positions, noise)

    def _on_path(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Batch:
        unmask_step = self.unmask_step.flatten(0, 1)[index]
        steps = unmask_step.amax(dim=1, keepdim=True) + 1
        step = (torch.rand(len(index), 1, generator=generator) * steps).long()
        return self._batch(index, unmask_step >= step, unmask_step == step, self._noise(index, generator))

    def _noise(self, index: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n T"]:
        return torch.rand(len(index), self.prompt.shape[1] + self.start.shape[1] + 1, generator=generator)


def systematic(weight: Float[Tensor, " m"], draws: int, generator: torch.Generator) -> Int[Tensor, " draws"]:
    """Systematic resampling: indices in random order, j occurring ⌊c⌋ or ⌈c⌉ times with mean c = draws · w_j / Σ w."""
    cumulative = weight.double().cumsum(0)
    points = (torch.arange(draws) + torch.rand(1, generator=generator, dtype=torch.float64)) / draws
    index = torch.searchsorted(cumulative, points * cumulative[-1], right=True).clamp(max=len(weight) - 1)
    return index[torch.randperm(draws, generator=generator)]
