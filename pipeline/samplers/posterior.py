"""A model's p(v | x, i) at selected positions, for sampling, teacher forcing and training."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.base import blocks_of
from pipeline.models.block_cache import BlockCache, next_cache
from pipeline.text.tokenizer import PADDING


def log_posterior(
    model: nn.Module,
    prompt: Int[Tensor, "n P"],
    answer: Int[Tensor, "n L"],
    select: Bool[Tensor, "n L"],
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
    cache: BlockCache | None = None,
) -> Float[Tensor, "s V"]:
    """log p(v | x, i) ∝ logit_v(x, i) / T at the s selected answer positions, in row-major order, at least in `dtype`.
    The head runs on these positions alone.

    With a filled `cache` the pass is over its block alone, in which all selected positions must lie, and the law is
    p̃(v | x_b, x, i) with the state x_b that filled it."""
    logits: Tensor = model(**_inputs(prompt, answer, select, cache)).logits
    if temperature != 1:
        logits = logits / temperature
    return logits.to(torch.promote_types(logits.dtype, dtype)).log_softmax(dim=-1)


def token_log_prob(
    model: nn.Module,
    prompt: Int[Tensor, "n P"],
    answer: Int[Tensor, "n L"],
    select: Bool[Tensor, "n L"],
    tokens: Int[Tensor, "s K"],
    temperature: float = 1.0,
    cache: BlockCache | None = None,
) -> Float[Tensor, "s K"]:
    """`log_posterior` of K tokens at each selected position; at temperature 1 few logits are in memory at once."""
    if temperature != 1:
        return log_posterior(model, prompt, answer, select, temperature, cache=cache).gather(1, tokens)
    log_prob: Tensor = model(**_inputs(prompt, answer, select, cache), tokens=tokens).log_prob
    return log_prob


def block_cache(
    model: nn.Module, prompt: Int[Tensor, "n P"], block: slice, previous: BlockCache | None = None
) -> BlockCache:
    """An empty cache for a block of the answer; `previous` is that of the block before it."""
    return next_cache(model, slice(prompt.shape[1] + block.start, prompt.shape[1] + block.stop), previous)


def offset_in_block(model: nn.Module, prompt: Int[Tensor, "n P"], block_length: int | None) -> int:
    """How many tokens of the prompt are in the answer's first block: 0 unless the model sees block by block.

    Raises:
        PipelineError: if answers are to be revealed in other blocks than the model sees, or prompts are padded, so that
            the blocks of their answers begin at different positions.
    """
    seen = blocks_of(model)
    if seen is None or block_length is None:
        return 0
    if block_length != seen:
        raise PipelineError(f"block_length {block_length}: this model sees blocks of {seen}, so it must be {seen}")
    if (prompt == PADDING).any():
        raise PipelineError("a model that sees block by block answers prompts of one length at a time")
    return prompt.shape[1] % seen


def _inputs(
    prompt: Int[Tensor, "n P"],
    answer: Int[Tensor, "n L"],
    select: Bool[Tensor, "n L"],
    cache: BlockCache | None,
) -> dict[str, Tensor | BlockCache]:
    """A model's inputs, with an attention mask only if a prompt or an answer is padded."""
    positions = slice(None) if cache is None else cache.positions
    ids = torch.cat([prompt, answer], dim=1)
    inputs: dict[str, Tensor | BlockCache] = {"input_ids": ids[:, positions].clamp(min=0)}
    inputs["select"] = torch.cat([torch.zeros_like(prompt, dtype=torch.bool), select], dim=1)[:, positions]
    if cache is not None:
        inputs["cache"] = cache
    if (cache is None or not cache.filled) and not (shown := ids != PADDING).all():
        inputs["attention_mask"] = shown.long()
    return inputs


def most_confident(log_prob: Float[Tensor, "s V"], masked: Bool[Tensor, "n L"], k: int) -> Bool[Tensor, "n L"]:
    """The k masked positions of each row with the largest max_v p(v | x, i), or all of them if fewer are masked.
    `log_prob` is `log_posterior` at the masked positions."""
    confidence = torch.full(masked.shape, -math.inf, device=masked.device)
    confidence[masked] = log_prob.amax(dim=1)
    rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return masked & (rank < k)


def completion_log_prob(
    model: nn.Module,
    prompt: Int[Tensor, "n P"],
    state: Int[Tensor, "n L"],
    tokens: Int[Tensor, "n K L"],
    positions: Bool[Tensor, "n L"],
) -> Float[Tensor, "n K L"]:
    """log p(X^(k)_i | x, i) at these masked positions of x, 0 elsewhere: one forward pass for all K completions."""
    wanted = tokens.transpose(1, 2)[positions]
    return scatter(token_log_prob(model, prompt, state, positions, wanted), positions).transpose(1, 2)


def log_prob_of_completions(
    log_prob: Float[Tensor, "s V"], positions: Bool[Tensor, "n L"], tokens: Int[Tensor, "n K L"]
) -> Float[Tensor, "n K L"]:
    """As `completion_log_prob`, from `log_posterior` at these positions."""
    return scatter(log_prob.gather(1, tokens.transpose(1, 2)[positions]), positions).transpose(1, 2)


def scatter(value: Float[Tensor, "s ..."], select: Bool[Tensor, "n L"]) -> Float[Tensor, "n L ..."]:
    """Put the values at the selected positions, 0 elsewhere."""
    result = torch.zeros(*select.shape, *value.shape[1:], dtype=value.dtype, device=value.device)
    result[select] = value
    return result


def cross_entropy(
    expected: Float[Tensor, "s V"],
    log_prob: Float[Tensor, "s V"],
    positions: Bool[Tensor, "n L"],
) -> Float[Tensor, " n"]:
    """- (1/|J|) Σ_{i∈J} Σ_v q(v | x, i) log p(v | x, i), with 0 · log 0 = 0; J = `positions`, those of q and p."""
    entropy = -torch.where(expected > 0, expected * log_prob, 0.0).sum(dim=1)
    return scatter(entropy, positions).sum(dim=1) / positions.sum(dim=1).clamp(min=1)
