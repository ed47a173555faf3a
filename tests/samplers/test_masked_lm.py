"""Rollouts of masked language models against enumeration by transformers' own forward pass: three of five letters."""

from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from pipeline.ctmc.weights import log_weights
from pipeline.models import masked_lm
from pipeline.models.policy_directory import load_policy
from pipeline.samplers.ancestral import Trajectories, path_log_prob, rollout
from tests.models import encoders

LENGTH, ROWS, ALPHA = 3, 8_000, 0.5
FIRST, MASK = 4, 4 + len(encoders.LETTERS)
KINDS = ("roberta", "modernbert", "esm")
STARTS = {"empty": [MASK, MASK, MASK], "partly revealed": [MASK, FIRST + 1, MASK]}


def table(path: Path) -> torch.Tensor:
    """log p(v | x, i), [6, 6, 6, 3, 5]: by the state's letters, the last being the mask, then position and letter."""
    model = AutoModelForMaskedLM.from_pretrained(path).eval()
    states = torch.tensor(list(product(range(FIRST, MASK + 1), repeat=LENGTH)))
    first, last = encoders.tokenizer(model.config.model_type).encode("").ids
    whole = torch.cat([torch.full((len(states), 1), first), states, torch.full((len(states), 1), last)], dim=1)
    with torch.no_grad():
        logits = model(input_ids=whole).logits[:, 1:-1, FIRST:MASK].double()
    return logits.log_softmax(dim=-1).view(*[MASK - FIRST + 1] * LENGTH, LENGTH, -1)


def along(law: torch.Tensor, start: list[int], word: tuple[int, ...], order: tuple[int, ...]) -> float:
    """log Π_s p(x_i | x_s, i) for masked positions revealed in this order; letters count from 0, 5 is the mask."""
    state, total = [token - FIRST for token in start], 0.0
    for position in order:
        total += float(law[(*state, position, word[position])])
        state[position] = word[position]
    return total


def joint(law: torch.Tensor, start: list[int]) -> torch.Tensor:
    """p(X_1), [5, 5, 5], as a mean over the orders of the masked positions."""
    found = torch.zeros([MASK - FIRST] * LENGTH, dtype=torch.float64)
    holes = [position for position, token in enumerate(start) if token == MASK]
    for word in product(range(MASK - FIRST), repeat=LENGTH):
        if all(token in (MASK, FIRST + letter) for token, letter in zip(start, word, strict=True)):
            paths = torch.tensor([along(law, start, word, order) for order in permutations(holes)])
            found[word] = paths.double().exp().mean()
    assert found.sum() == pytest.approx(1.0)
    return found


def reward(words: torch.Tensor) -> torch.Tensor:
    """The share of neighbouring letters in alphabetical order."""
    return (words[..., :-1] < words[..., 1:]).double().mean(dim=-1)


@pytest.fixture(scope="module", params=KINDS)
def models(request, tmp_path_factory) -> dict[str, Path]:
    """A base and another policy."""
    home = tmp_path_factory.mktemp(request.param)
    spread = {"initializer_range": 0.3}
    return {
        name: encoders.write(home / name, request.param, seed=n, **spread) for n, name in enumerate(("base", "policy"))
    }


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_rollouts_and_weights_agree_with_enumeration(models, start):
    noise = torch.rand(2, ROWS, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    prompt, starts = torch.zeros(ROWS, 0, dtype=torch.long), torch.tensor(start).expand(ROWS, -1)
    base, policy = (load_policy(models[name], masked_lm.PLUGIN)[0] for name in ("base", "policy"))
    paths = rollout(policy, prompt, starts, mask_id=MASK, order_noise=noise[0], token_noise=noise[1])
    words, laws = paths.tokens - FIRST, {name: table(path) for name, path in models.items()}
    assert (words >= 0).all() and (words < MASK - FIRST).all()

    # What is recorded, and what the base is replayed with, is each path's own probability.
    few = Trajectories(paths.tokens[:200], paths.unmask_step[:200], paths.log_prob[:200])
    replayed = path_log_prob(base, prompt[:200], few, mask_id=MASK)
    for row in range(200):
        order = [position for position in few.unmask_step[row].argsort().tolist() if start[position] == MASK]
        for law, found in (("policy", few.log_prob), ("base", replayed)):
            wanted = along(laws[law], start, tuple(words[row].tolist()), tuple(order))
            assert float(found[row].sum()) == pytest.approx(wanted, abs=1e-4)

    # Words have the enumerated law, and weighted by e^ℓ that of the tilted base, within 5 standard errors.
    ratio = path_log_prob(base, prompt, paths, mask_id=MASK).sum(dim=1) - paths.log_prob.sum(dim=1)
    weight = log_weights(ratio[:, None].double(), reward(words)[:, None], 1 / ALPHA).exp()[:, 0]
    every = torch.cartesian_prod(*[torch.arange(MASK - FIRST)] * LENGTH).view(*[MASK - FIRST] * LENGTH, LENGTH)
    tilted = joint(laws["base"], start) * (reward(every) / ALPHA).exp()
    for of_word, exact in ((torch.ones_like(weight), joint(laws["policy"], start)), (weight, tilted)):
        for position, letter in product(range(LENGTH), range(MASK - FIRST)):
            drawn = of_word * (words[:, position] == letter)
            wanted = exact.movedim(position, 0)[letter].sum()
            assert (drawn.mean() - wanted).abs() <= 5 * drawn.std() / ROWS**0.5 + 1e-6
    assert weight.std() > 0.3 * weight.mean()
