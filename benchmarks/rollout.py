"""CPU time of a rollout compared with LLaDA's published sampler, for the same distribution and the same weights.

The published sampler (arXiv 2502.09992; random remasking, temperature 1) computes logits at all positions, adds
float64 Gumbel noise to each of their V entries, proposes a token everywhere and keeps k of them. `rollout` chooses
the k positions first, so it computes logits and samples only there. Both record log p of every token they reveal.

    python -m benchmarks.rollout
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.base import Model
from pipeline.models.llada import PLUGIN
from pipeline.samplers.ancestral import rollout
from pipeline.samplers.unmasking_order import leftmost
from pipeline.settings.sections import ModelSection
from pipeline.storage.provenance import processor


@torch.no_grad()
def published(
    model: nn.Module,
    prompt: Tensor,
    length: int,
    mask_id: int,
    tokens_per_step: int,
    block_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities, [n, length] each, in ⌈length / tokens_per_step⌉ steps, or so many for each
    block.

    The choice of positions is batched, where the published code loops over rows: this makes the published side faster.
    """
    first = prompt.shape[1]
    state = torch.cat([prompt, torch.full((len(prompt), length), mask_id)], dim=1)
    log_prob = torch.zeros(state.shape)
    while (state == mask_id).any():
        masked = state == mask_id
        masked[:, first:] = leftmost(masked[:, first:], block_length)
        logits = model(input_ids=state).logits
        doubles = logits.double()
        gumbel = -torch.rand_like(doubles).log()  # to the power of the temperature, which is 1
        proposal = (doubles.exp() / gumbel).argmax(dim=-1)
        proposal_log_prob = logits.log_softmax(dim=-1).gather(2, proposal[..., None])[..., 0]
        priority = torch.where(masked, torch.rand(state.shape), -math.inf)
        count = min(tokens_per_step, int(masked[0].sum()))
        transfer = torch.zeros_like(masked).scatter(1, priority.topk(count, dim=1).indices, True)
        state = torch.where(transfer, proposal, state)
        log_prob = torch.where(transfer, proposal_log_prob, log_prob)
    return state[:, first:], log_prob[:, first:]


def ours(model: nn.Module, prompt: Tensor, length: int, mask_id: int, tokens_per_step: int) -> tuple[Tensor, Tensor]:
    """The same from `rollout`, including the time to draw its noise."""
    order_noise, token_noise = torch.rand(2, len(prompt), length, dtype=torch.float64)
    start = torch.full((len(prompt), length), mask_id)
    noise = {"order_noise": order_noise, "token_noise": token_noise}
    paths = rollout(model, prompt, start, mask_id=mask_id, tokens_per_step=tokens_per_step, **noise)
    return paths.tokens, paths.log_prob


SAMPLERS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"published": published, "ours": ours}


def create(plugin: Model, args: argparse.Namespace, vocabulary: int, **more: Any) -> nn.Module:
    """A model with random weights and the sizes of the command line; [MASK] is the last token."""
    sizes = {"hidden_size": args.hidden, "intermediate_size": args.intermediate, "num_hidden_layers": args.layers}
    heads, deviation = args.heads, args.initializer_range
    settings = ModelSection(**sizes, num_attention_heads=heads, initializer_range=deviation, **more)
    return plugin.create(settings, vocabulary, vocabulary - 1, 0).eval()


def in_turns(
    samplers: Mapping[str, Callable[[], tuple[Tensor, Tensor]]], repeats: int, mask_id: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Of each sampler the CPU seconds of every repeat and log p of every trajectory. They take turns; the first turn, a
    warm-up, is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    log_probs: dict[str, list[Tensor]] = {name: [] for name in samplers}
    for repeat in range(-1, repeats):
        for name in list(samplers)[:: 1 if repeat % 2 else -1]:
            start = time.process_time()
            tokens, log_prob = samplers[name]()
            elapsed = time.process_time() - start
            assert not (tokens == mask_id).any() and (log_prob <= 0).all()
            if repeat >= 0:
                seconds[name].append(elapsed)
                log_probs[name].append(log_prob.double().sum(dim=1))
    return seconds, {name: torch.cat(values) for name, values in log_probs.items()}


def measure(args: argparse.Namespace, vocabulary: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """`in_turns` of the two samplers."""
    torch.manual_seed(args.seed)
    model, mask_id = create(PLUGIN, args, vocabulary), vocabulary - 1
    prompt = torch.randint(mask_id, (args.batch, args.prompt))
    inputs = (model, prompt, args.answer, mask_id, args.tokens_per_step)
    samplers = {name: partial(sampler, *inputs) for name, sampler in SAMPLERS.items()}
    return in_turns(samplers, args.repeats, mask_id)


def same_law(log_probs: dict[str, Tensor]) -> tuple[float, float, float]:
    """Mean log p of each sampler's trajectories, and their difference in standard errors, paired by prompt."""
    difference = log_probs["ours"] - log_probs["published"]
    error = difference.std() / math.sqrt(len(difference))
    return log_probs["published"].mean().item(), log_probs["ours"].mean().item(), (difference.mean() / error).item()


def spread(values: list[float], digits: int = 3) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def print_head(args: argparse.Namespace, shape: str) -> None:
    print(f"Hardware: {processor()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s).")
    print(shape)
    print(f"CPU seconds per batch, median (min–max) of {args.repeats} repeats taken in turns.\n", flush=True)


def report(args: argparse.Namespace) -> bool:
    """Print the report; returns whether the two distributions agree at every vocabulary size."""
    steps = math.ceil(args.answer / args.tokens_per_step)
    print_head(
        args,
        f"Shape: hidden {args.hidden}, intermediate {args.intermediate}, {args.layers} layers, {args.heads} heads, "
        f"fp32; prompt {args.prompt}, answer {args.answer}, {args.tokens_per_step} tokens per step ({steps} steps), "
        f"batch {args.batch}.",
    )
    rows, laws, agree = [], [], True
    for vocabulary in args.vocabulary:
        seconds, log_probs = measure(args, vocabulary)
        ratios = [theirs / own for theirs, own in zip(seconds["published"], seconds["ours"], strict=True)]
        ratio = f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"
        rows.append(f"| {vocabulary} | {spread(seconds['published'])} | {spread(seconds['ours'])} | {ratio} |")
        theirs, own, distance = same_law(log_probs)
        agree &= abs(distance) < 5
        laws.append(
            f"Same law at V = {vocabulary}: {'yes' if abs(distance) < 5 else 'NO'}; mean log p of "
            f"{len(log_probs['ours'])} trajectories {theirs:.2f} published, {own:.2f} ours ({distance:+.1f} s.e.)."
        )
    print("| vocabulary | published | `rollout` | ratio |", "|---:|---:|---:|---:|", *rows, "", *laws, sep="\n")
    return agree


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def parser_of(description: str | None, sizes: Iterable[tuple[str, int, str]]) -> argparse.ArgumentParser:
    """A command line with an option for each size: its name, default and meaning."""
    first = (description or "").split("\n\n", maxsplit=1)[0]
    parser = argparse.ArgumentParser(description=first, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default, text in sizes:
        parser.add_argument(f"--{name}", type=at_least_one, default=default, help=text)
    return parser


def main(arguments: list[str] | None = None) -> int:
    model = ModelSection()
    sizes = (
        ("hidden", model.hidden_size, "hidden size; this and the next three default to those of params.yaml"),
        ("intermediate", model.intermediate_size, "width of the feed-forward layers"),
        ("layers", model.num_hidden_layers, "number of layers"),
        ("heads", model.num_attention_heads, "number of attention heads"),
        ("prompt", 17, "prompt tokens (17: the 4×4 Sudoku)"),
        ("answer", 32, "answer tokens"),
        ("tokens-per-step", 2, "positions revealed per step"),
        ("batch", 32, "trajectories per batch"),
        ("repeats", 9, "timed repeats of each sampler"),
        ("threads", 1, "CPU threads"),
    )
    parser = parser_of(__doc__, sizes)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, prompts and noise")
    parser.add_argument(
        "--vocabulary", type=at_least_one, nargs="+", default=[512, 8192], help="sizes, [MASK] included"
    )
    parser.add_argument(
        "--initializer-range", type=float, default=0.25, help="of the fresh weights: wide enough for uneven posteriors"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    return 0 if report(args) else 1


if __name__ == "__main__":
    sys.exit(main())
