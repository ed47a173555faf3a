"""Small models, starts that are partly revealed, and the laws of their answers by enumeration."""

from itertools import permutations, product

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.algorithms import dam
from pipeline.models import mlp, tabular
from pipeline.objectives.targets import Rollouts, Targets
from pipeline.samplers.posterior import log_posterior
from pipeline.samplers.round_states import sample_states
from pipeline.settings.algorithms import Dam
from pipeline.settings.sections import ModelSection, Rollout
from pipeline.settings.stages import AdjointSettings
from pipeline.stages.reference import log_prob_of
from pipeline.storage import parquet
from tests.conftest import llada

VALUES, PROMPT, MASK = 3, 3, 4
ALPHA, COMPLETIONS = 0.5, 16
M = MASK
STARTS = {
    "llada": [[M, 1, M], [0, M, 2, M, M], [M, M]],
    "mlp": [[M, 1, M], [0, M, M]],
    "tabular": [[M, 1, M], [0, M, M]],
}


def model_of(name: str, seed: int) -> torch.nn.Module:
    """One of the three small models; tokens besides the three values have next to no probability."""
    torch.manual_seed(seed)
    if name == "llada":
        return llada(MASK + 1, MASK, seed, num_hidden_layers=1, initializer_range=0.15)
    if name == "mlp":
        model = mlp.create(ModelSection(hidden_size=8, num_attention_heads=1, num_hidden_layers=1), MASK + 1, MASK, 3)
        torch.nn.init.normal_(model.layers[-1].weight, std=0.5)
        return model.eval()
    model = tabular.create(ModelSection(), MASK + 1, MASK, 3)
    torch.nn.init.normal_(model.table)
    with torch.no_grad():
        model.table[..., PROMPT] = -40
    return model.eval()


def near(model: torch.nn.Module, other: torch.nn.Module) -> torch.nn.Module:
    """`other` with weights three quarters of the way to those of `model`, so that no weight is large by chance."""
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 0.75)
    return other


def starts_of(name: str, groups: int) -> list[torch.Tensor]:
    """The starts of a model in turn, as many as there are groups."""
    return [torch.tensor(STARTS[name][number % len(STARTS[name])]) for number in range(groups)]


def answers_to(start: torch.Tensor) -> torch.Tensor:
    """All answers that a start can become, the prompt's own token included: small models may draw it."""
    choices = [range(PROMPT + 1) if token == MASK else [int(token)] for token in start]
    return torch.tensor(list(product(*choices)))


def reward_of(tokens: torch.Tensor) -> torch.Tensor:
    """Of neighbours that rise, and of the first token."""
    return (tokens[..., 1:] > tokens[..., :-1]).double().sum(dim=-1) / 2 + 0.3 * (tokens[..., 0] == 2)


@torch.no_grad()
def law(model: torch.nn.Module, start: torch.Tensor) -> torch.Tensor:
    """log p(x_1 | start) = log (1/m!) Σ_orders Π_s p(x_i | x_s, i) of every answer; other positions are never drawn."""
    words, masked = answers_to(start), (start == MASK).nonzero()[:, 0].tolist()
    prompt, total = torch.full((len(words), 1), PROMPT), []
    for order in permutations(masked):
        state, log_prob = start.repeat(len(words), 1), torch.zeros(len(words), dtype=torch.float64)
        for position in order:
            select = torch.zeros_like(state, dtype=torch.bool)
            select[:, position] = True
            found = log_posterior(model, prompt, state, select, dtype=torch.float64)
            log_prob += found.gather(1, words[:, position, None])[:, 0]
            state[:, position] = words[:, position]
        total.append(log_prob)
    found = torch.stack(total).logsumexp(dim=0) - np.log(len(total))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-6)
    return found


def settings(weights: str = "direct", **rollout: object) -> AdjointSettings:
    section = Rollout(completions=COMPLETIONS, tokens_per_step=1, **rollout)
    algorithm = Dam(name="dam", alpha=ALPHA, weights=weights, replay_rounds=1, min_ess=0.3)
    return AdjointSettings(seed=0, rollout=section, algorithm=algorithm)


def rollouts(policy: torch.nn.Module, starts: list[torch.Tensor], run: AdjointSettings, number: int = 1) -> pa.Table:
    """Of all groups, those of one length together, in the order of the groups."""
    prompts, ids = torch.full((len(starts), 1), PROMPT), np.zeros(len(starts), dtype=int)
    tables = []
    for length in {len(start) for start in starts}:
        states = [state for state, start in enumerate(starts) if len(start) == length]
        rows = sample_states(policy, prompts, ids, starts, states, MASK, run.rollout, run.seed, number)
        rows["reward"] = reward_of(rows["tokens"])
        columns = {name: rows[name].tolist() for name in parquet.ROLLOUTS.names}
        tables.append(pa.table(columns, schema=parquet.ROLLOUTS))
    return pa.concat_tables(tables).sort_by([("state_id", "ascending"), ("sample_id", "ascending")])


def make_targets(base: torch.nn.Module, table: pa.Table, run: AdjointSettings) -> Targets:
    """Of one round, with log p^base replayed for the rows of each length together."""
    lengths, replayed = np.array(parquet.lengths(table, "tokens")), [[]] * len(table)
    for length in set(lengths.tolist()):
        places = np.flatnonzero(lengths == length)
        for place, row in zip(places, log_prob_of(base, table.take(places), MASK).tolist(), strict=True):
            replayed[place] = row
    columns = {"state_id": table.column("state_id"), "sample_id": table.column("sample_id"), "base_log_prob": replayed}
    reference = pa.table(columns, schema=parquet.REFERENCES)
    return dam.make_targets(Rollouts(table, reference, None, run), run.algorithm)


def places(table: pa.Table, start: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """The rows that began as `start`, and the place of each one's answer among `answers_to`."""
    rows = [row for row, found in enumerate(table["start"].to_pylist()) if found == start.tolist()]
    words = {tuple(word): place for place, word in enumerate(answers_to(start).tolist())}
    tokens = table["tokens"].take(rows).to_pylist()
    return np.array(rows), torch.tensor([words[tuple(answer)] for answer in tokens])
