"""Answers to held-out prompts: greedy, by ancestral sampling in either order, or with the algorithm's own decoder.

The prompts of a batch have the same length, and so have its answers: nothing is padded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.algorithms.base import Algorithm
from pipeline.models.base import check_features
from pipeline.models.policy_directory import load_policy
from pipeline.objectives.context import DecodeContext, value_ids
from pipeline.plugins import load_algorithm, load_model, resolve_task
from pipeline.runtime.compilation import compile_blocks
from pipeline.runtime.distributed import device
from pipeline.runtime.random_streams import Stream, uniforms
from pipeline.samplers import low_confidence
from pipeline.samplers.ancestral import rollout
from pipeline.settings.features import asked_of
from pipeline.settings.method import Settings
from pipeline.settings.sections import Sampler
from pipeline.settings.stages import EvaluateSettings
from pipeline.tasks.base import Item
from pipeline.tasks.scoring import Scorer
from pipeline.text.prompts import PromptFormat, load_prompt_format
from pipeline.text.tokenizer import buckets

ORDERS = {"ancestral": "random", "ancestral_confidence": "confidence"}
"""Sampler -> the `order` of a rollout."""


@dataclass(frozen=True)
class Decoder:
    """A policy and the settings of its decoding."""

    policy: nn.Module
    prompt_format: PromptFormat
    algorithm: Algorithm[Settings]
    context: DecodeContext[Settings]
    score: Scorer

    def answers(
        self, sampler: Sampler, items: Sequence[Item], length: int, title: str, mine: Iterable[bool]
    ) -> dict[int, str]:
        """The answers, of `length` tokens, by the place of their item; `mine` says of one batch after the other whether
        to decode it. Without a `title` there is no progress bar."""
        numbers = range(len(items))
        prompts = self.prompt_format.prompts([item.prompt for item in items], numbers, length)
        starts = self.prompt_format.starts([item.start for item in items], numbers, length)
        answers: dict[int, str] = {}
        lengths = [(len(prompt), len(start)) for prompt, start in zip(prompts, starts, strict=True)]
        batches = buckets(lengths, self.context.evaluate.batch_size)
        for ids in tqdm(list(compress(batches, mine)), desc=title, unit="batch", disable=not title):
            prompt, start = (
                torch.stack([rows[index] for index in ids]).to(self.context.device) for rows in (prompts, starts)
            )
            tokens = self._tokens(sampler, prompt, start, [items[index] for index in ids], ids)
            answers |= zip(ids, self.prompt_format.answers(tokens), strict=True)
        return dict(sorted(answers.items()))

    def _tokens(
        self,
        sampler: Sampler,
        prompt: Int[Tensor, "n P"],
        start: Int[Tensor, "n L"],
        items: Sequence[Item],
        ids: Sequence[int],
    ) -> Int[Tensor, "n L"]:
        """The answers of a batch. Their noise belongs to the items, by their numbers `ids`."""
        context, mask_id = self.context, self.context.mask_id
        options = context.evaluate.model_dump(include={"tokens_per_step", "block_length", "cache"})
        if sampler == "greedy":
            return low_confidence.decode(self.policy, prompt, start, mask_id=mask_id, **options)
        keys = [(index, 0, 0) for index in ids]
        noise = uniforms(context.seed, Stream.EVALUATION, 0, keys, 2 * start.shape[1]).to(start.device)
        if sampler == "ancestral" and self.algorithm.decode:
            return self.algorithm.decode(self.policy, prompt, start, noise, partial(self._reward, items), context)
        order, (order_noise, token_noise) = ORDERS[sampler], noise.chunk(2, dim=1)
        draw = partial(rollout, self.policy, mask_id=mask_id, order_noise=order_noise, token_noise=token_noise)
        return draw(prompt, start, order=order, **options).tokens

    def _reward(self, items: Sequence[Item], rows: Tensor, tokens: Tensor) -> Tensor:
        chosen, answers = [items[row] for row in rows.tolist()], self.prompt_format.answers(tokens)
        metrics = self.score(chosen, answers)
        return torch.tensor([metric["reward"] for metric in metrics], dtype=torch.float64, device=rows.device)


def load_decoder(directory: Path, settings: EvaluateSettings, compiled: bool | None) -> Decoder:
    """The policy in a directory, on this process's device, with what `settings` say about decoding.

    Args:
        compiled: whether its blocks are compiled; None: on a GPU.
    """
    evaluate, task, algorithm = settings.evaluate, resolve_task(settings.task), load_algorithm(settings.algorithm.name)
    plugin = load_model(settings.model.name)
    check_features(plugin, asked_of(evaluate, "evaluate"))
    policy, tokenizer, mask_id = load_policy(directory, plugin, device())
    compile_blocks(policy, compiled)
    values = value_ids(task, tokenizer).to(device())
    context = DecodeContext(settings.algorithm, task, mask_id, values, settings.seed, evaluate)
    prompt_format = load_prompt_format(directory, policy, tokenizer, task, evaluate.prefill)
    score = Scorer(settings.task, evaluate.reward_timeout)
    return Decoder(policy, prompt_format, algorithm, context, score)
