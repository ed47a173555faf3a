"""DAM from rollouts with a block cache: without a cache, the trained network has the law p̃* that the theory says.

With p̃ the law of the base's rollouts with a cache, p̃*(X_1) ∝ p̃^base(X_1) e^{r(X_1)/α}, where p̃^base(X_1) is the sum
over the paths to X_1. Direct weights give samples of p̃*, whatever policy drew the rollouts, and training on their
re-masked states teaches the network p̃*'s posteriors. Here LLaDA has answers of four tokens of two values in two blocks,
so every path can be enumerated; the base was chosen so that its laws with and without a cache are far apart.
"""

import copy
import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.algorithms import dam
from pipeline.ctmc.exact import kl
from pipeline.models.transformer import restrict
from pipeline.objectives.targets import Rollouts, Targets
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.samplers.round_states import sample_states
from pipeline.settings.algorithms import Dam
from pipeline.settings.sections import Rollout
from pipeline.settings.stages import AdjointSettings
from pipeline.stages.reference import log_prob_of
from pipeline.storage import parquet
from tests.algorithms.harness import Bench
from tests.conftest import llada

VALUES, LENGTH, BLOCK, ALPHA = 2, 4, 2, 0.5
PROMPT, MASK = VALUES, VALUES + 1
GROUPS, COMPLETIONS = 32, 256
ANSWERS = torch.tensor(list(itertools.product(range(VALUES), repeat=LENGTH)))
ORDERS = torch.tensor(
    [[*first, *(2 + step for step in second)] for first in ((0, 1), (1, 0)) for second in ((0, 1), (1, 0))]
)
"""`unmask_step` of the four orders of revealing: two in each block."""
REWARD = torch.rand(len(ANSWERS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def model(seed: int, initializer_range: float) -> torch.nn.Module:
    network = llada(VALUES + 2, MASK, seed=seed, initializer_range=initializer_range)
    restrict(network, set(range(VALUES)))
    return network


def law(policy: torch.nn.Module, *, cached: bool) -> torch.Tensor:
    """log p(X_1) of each answer, or log p̃(X_1), by all its paths."""
    tokens, steps = ANSWERS.repeat_interleave(len(ORDERS), 0), ORDERS.repeat(len(ANSWERS), 1)
    paths = Trajectories(tokens, steps, torch.zeros(tokens.shape))
    prompt = torch.full((len(tokens), 1), PROMPT)
    log_prob = path_log_prob(policy, prompt, paths, mask_id=MASK, cached_blocks=BLOCK if cached else None)
    found = log_prob.double().sum(dim=1).view(len(ANSWERS), len(ORDERS)).logsumexp(dim=1) - np.log(len(ORDERS))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)
    return found


def tilted(log_law: torch.Tensor) -> torch.Tensor:
    return (log_law + REWARD / ALPHA).log_softmax(dim=0)


def index(tokens: torch.Tensor) -> torch.Tensor:
    """The place of each answer among all."""
    return (tokens * VALUES ** torch.arange(LENGTH - 1, -1, -1)).sum(dim=-1)


def settings(weights: str) -> AdjointSettings:
    rollout = Rollout(prompts=GROUPS, completions=COMPLETIONS, tokens_per_step=1, block_length=BLOCK, cache="block")
    algorithm = Dam(name="dam", alpha=ALPHA, weights=weights, replay_rounds=1, min_ess=0.1, largest_step=1.0)
    return AdjointSettings(seed=0, rollout=rollout, algorithm=algorithm)


def targets(policy: torch.nn.Module, base: torch.nn.Module, run: AdjointSettings, number: int) -> Targets:
    """A round's rollouts with their weights."""
    prompts, ids = torch.full((GROUPS, 1), PROMPT), np.zeros(GROUPS, dtype=int)
    starts = torch.full((GROUPS, LENGTH), MASK)
    rows = sample_states(policy, prompts, ids, starts, range(GROUPS), MASK, run.rollout, run.seed, number)
    rows["reward"] = REWARD[index(rows["tokens"])]
    table = pa.table({name: rows[name].tolist() for name in parquet.ROLLOUTS.names}, schema=parquet.ROLLOUTS)
    replayed = log_prob_of(base, table, MASK, run.rollout.cached_blocks).tolist()
    columns = {"state_id": table.column("state_id"), "sample_id": table.column("sample_id"), "base_log_prob": replayed}
    return dam.make_targets(Rollouts(table, pa.table(columns, schema=parquet.REFERENCES), None, run), run.algorithm)


def train(policy: torch.nn.Module, found: Targets, run: AdjointSettings, number: int, updates: int) -> None:
    table = pa.table({name: found.columns[name] for name in parquet.TARGETS.names}, schema=parquet.TARGETS)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, updates)
    replay = dam.replay(table, run.rollout, run.algorithm, MASK)
    for batch in replay.batches(updates, 256, 0, Stream.REPLAY, number):
        optimizer.zero_grad()
        weighted_cross_entropy(policy, batch).mean().backward()
        optimizer.step()
        schedule.step()


def distances(found: Targets, law_of_targets: torch.Tensor) -> torch.Tensor:
    """(weighted frequency - probability) of each answer, in standard errors over the groups."""
    weight = torch.from_numpy(np.array(found.columns["weight"])).view(GROUPS, COMPLETIONS)
    tokens = torch.tensor(found.columns["tokens"].to_pylist())
    answer = index(tokens).view(GROUPS, COMPLETIONS)
    frequency = torch.zeros(GROUPS, len(ANSWERS), dtype=torch.float64).scatter_add(1, answer, weight / COMPLETIONS)
    return (frequency.mean(dim=0) - law_of_targets.exp()) / (frequency.std(dim=0) / GROUPS**0.5)


@pytest.mark.facts
def test_the_law_without_a_cache_goes_to_the_optimum_with_one(record_property, capsys):
    """From a policy that has nothing to do with the base; and what tempered weights then do, where p̃ of the policy
    enters with weight 1 - τ. The distances of both laws of the network are printed."""
    base, policy = model(0, 0.5), model(2, 0.3)
    optimum, without = (tilted(law(base, cached=cached)) for cached in (True, False))
    far, first = float(kl(optimum, without)), float(kl(optimum, law(policy, cached=True)))
    assert far > 0.1 and first > 1
    found, kls = {}, {}
    for number, (weights, updates) in enumerate((("direct", 200), ("direct", 300), ("tempered", 200)), 1):
        run = settings(weights)
        found[number] = targets(copy.deepcopy(policy), base, run, number)
        train(policy, found[number], run, number, updates)
        kls[weights] = [float(kl(optimum, law(policy, cached=cached))) for cached in (False, True)]
    assert found[3].diagnostics["tau"] == 0.5
    for number in (1, 2):
        assert distances(found[number], optimum).abs().max() < 5
        assert distances(found[number], without).abs().max() > 10
    assert kls["direct"][0] < 1e-2
    assert float(kl(without, law(policy, cached=False))) > 0.1
    assert kls["tempered"][0] < 3e-2
    with capsys.disabled():
        print(f"\nKL(p̃* ‖ p*) = {far:.4f}, KL(p̃* ‖ p̃) of the first policy = {first:.4f}")
    for weights, (uncached, cached) in kls.items():
        record_property(f"{weights}: KL of the law without, with a cache", (uncached, cached))
        with capsys.disabled():
            print(f"\n{weights} weights: KL(p̃* ‖ p) = {uncached:.4f}, KL(p̃* ‖ p̃) = {cached:.4f}")


def test_remasked_starts_follow_the_blocks_of_rollouts():
    """The second block of one token is masked wherever an answer starts, the first one sometimes."""
    bench = Bench()
    run = bench.run(rollout={"start": "remasked", "block_length": 1})
    table = bench.rollouts(bench.policy(bench.log_base), run, 40)
    masked = torch.tensor(table.column("start").to_pylist()) == bench.mask_id
    assert masked[:, 1].all() and 0 < masked[:, 0].float().mean() < 1
