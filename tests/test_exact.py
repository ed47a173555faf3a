"""The whole workflow, base → (rollout → adjoint → train)*, against the enumerated optimum of three-letter words."""

from itertools import permutations, product
from pathlib import Path

import pytest
import torch

from examples.words import PLUGIN
from pipeline.models.policy_directory import load_policy
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.plugins import load_model
from pipeline.runtime.random_streams import Stream
from pipeline.storage import parquet
from pipeline.tasks.base import Item
from pipeline.text.tokenizer import encode
from pipeline.training.replay_buffer import Replay
from tests.conftest import ROOT
from tests.small_workflow import Workflow

ALPHA = 0.5
PARAMS = {
    "rounds": 4,
    "task": {"name": "examples.words"},
    "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    "base": {"updates": 300, "batch_size": 256, "lr": 1e-2},
    "rollout": {"prompts": 64, "completions": 64, "tokens_per_step": 1, "batch_size": 1024, "shards": 1},
    "train": {"updates": 120, "batch_size": 512, "lr": 5e-3, "lr_decay": 0.5, "warmup": 5},
    "evaluate": {"every": 4},
}
REMASKED = {"start": "remasked", "prompts": 128, "shards": 2}  # each prompt gives only one state x
CASES = {
    "empty": {"algorithm": {"alpha": ALPHA, "weights": "direct"}},
    "tempered": {"algorithm": {"alpha": ALPHA, "min_ess": 0.8}},
    "rwr": {"rounds": 1, "algorithm": {"name": "rwr", "alpha": ALPHA, "min_ess": 0.8}},  # only its targets are tested
    "remasked": {"rounds": 2, "algorithm": {"alpha": ALPHA, "weights": "direct"}, "rollout": REMASKED},
}


def law(policy: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All words over the alphabet, [125, 3], and p(x_1) = (1/3!) Σ_orders Π_s p(x_i | x_s, i), in float64."""
    model, tokenizer, mask = load_policy(policy, load_model("llada"))
    words = encode(tokenizer, ["".join(word) for word in product(PLUGIN.alphabet, repeat=3)])
    prompt = encode(tokenizer, [">"]).expand(len(words), 1)
    total = torch.zeros(len(words), dtype=torch.float64)
    for order in permutations(range(3)):
        state, log_prob = torch.full_like(words, mask), torch.zeros(len(words), dtype=torch.float64)
        for position in order:
            with torch.no_grad():
                logits = model(input_ids=torch.cat([prompt, state], dim=1)).logits[:, 1 + position]
            log_prob += logits.double().log_softmax(dim=1).gather(1, words[:, position, None])[:, 0]
            state[:, position] = words[:, position]
        total += log_prob.exp() / 6
    assert total.sum() == pytest.approx(1.0, abs=1e-5)
    return words, total


def optimum(base: Path, inverse_alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """p*(x) ∝ p^base(x) e^{r(x)/α}."""
    words, probability = law(base)
    texts = ["".join(word) for word in product(PLUGIN.alphabet, repeat=3)]
    reward = torch.tensor([PLUGIN.score(Item(">", text), text)["reward"] for text in texts], dtype=torch.float64)
    return words, (probability.log() + reward * inverse_alpha).softmax(dim=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workflow = Workflow(tmp_path_factory.mktemp("exact"))
    workflow.params |= {"defaults": PARAMS, "runs": CASES, "default_run": "empty"}
    (workflow.directory / "examples").symlink_to(ROOT / "examples")
    policies = [f"{case}/round_{last_round(case):03d}/policy" for case in CASES if case != "rwr"]
    workflow(*(f"data/runs/{path}" for path in (*policies, "rwr/round_001/targets/targets.parquet")))
    return workflow.directory / "data" / "runs"


def last_round(case: str) -> int:
    return int(CASES[case].get("rounds", PARAMS["rounds"]))


@pytest.mark.parametrize("case", [case for case in CASES if case != "rwr"])
def test_policy_converges_to_the_tilted_distribution(runs, case):
    base = runs / "empty" / "round_000" / "policy"  # the cases share it
    _, target = optimum(base, 1 / ALPHA)
    kl = []
    for path in (base, runs / case / f"round_{last_round(case):03d}" / "policy"):
        _, policy = law(path)
        kl.append((target * (target / policy).log()).sum().item())
    assert kl[0] > 0.1
    assert kl[1] < 1e-2, kl


@pytest.mark.parametrize("case", ["empty", "rwr"])
def test_estimated_targets_are_unbiased(runs, case):
    """(1/K) Σ_k W_k 1[X^(k)_i = v], averaged over groups, is p*_k(x_i = v) within 5 standard errors.

    In round 1 p*_k is p* for direct weights, and the base tilted by the first step for `rwr`.
    """
    folder = runs / case / "round_001" / "targets"
    table = parquet.read([folder / "targets.parquet"], parquet.TARGETS)
    inverse_alpha = table.column("step")[0].as_py() * (1 / ALPHA if case == "empty" else 1)
    words, target = optimum(runs / "empty" / "round_000" / "policy", inverse_alpha)
    tokens = torch.from_numpy(parquet.matrix(table, "tokens")).view(64, 64, 3)
    weight = torch.from_numpy(table.column("weight").to_numpy().copy()).view(64, 64, 1)
    for value in range(3):
        estimate = (weight * (tokens == value)).mean(dim=1)
        exact = (target[:, None] * (words == value)).sum(dim=0)
        error = estimate.std(dim=0) / len(estimate) ** 0.5
        assert ((estimate.mean(dim=0) - exact).abs() < 5 * error).all()


def test_without_reward_the_gradient_at_the_base_averages_to_zero(runs):
    """Policy = base: W_k = 1 (tests/algorithms/test_dam.py), and the loss is smallest at the base's own posterior."""
    base = runs / "empty" / "round_000" / "policy"
    table = parquet.read([runs / "empty" / "round_001" / "rollouts" / "00.parquet"], parquet.ROLLOUTS)
    model, _, mask = load_policy(base, load_model("llada"))
    tokens = torch.from_numpy(parquet.matrix(table, "tokens")).long()
    prompt = torch.from_numpy(parquet.matrix(table, "prompt_tokens")).long()
    replay = Replay.of_texts(prompt, tokens, mask)
    gradients = []
    for batch in replay.batches(40, 512, 0, Stream.REPLAY, 0):
        model.zero_grad()
        weighted_cross_entropy(model, batch).mean().backward()
        gradients.append(model.lm_head.weight.grad.flatten().clone())
    drawn = torch.stack(gradients)
    score = drawn.mean(dim=0) / (drawn.std(dim=0) / len(drawn) ** 0.5).clamp(min=1e-12)
    # The batches are independent: unless the mean differs from 0, the z-scores of the coordinates stay small.
    assert score.abs().median() < 2.5
    assert drawn.mean(dim=0).norm() < 0.2 * drawn.norm(dim=1).mean()
