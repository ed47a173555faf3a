"""Answers that start partly revealed, of several lengths: law, weights, targets and optimum by enumeration."""

import pyarrow as pa
import pytest
import torch

from pipeline.algorithms import dam
from pipeline.algorithms.base import Reward
from pipeline.algorithms.svdd import decode as decode_svdd
from pipeline.objectives.context import DecodeContext
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.plugins import load_task
from pipeline.runtime.random_streams import Stream
from pipeline.settings.algorithms import Svdd
from pipeline.settings.sections import Evaluate
from pipeline.storage import parquet
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Batch
from tests.algorithms.partly_revealed import (
    ALPHA,
    COMPLETIONS,
    MASK,
    PROMPT,
    STARTS,
    M,
    answers_to,
    law,
    make_targets,
    model_of,
    near,
    places,
    reward_of,
    rollouts,
    settings,
    starts_of,
)


@pytest.mark.facts
@pytest.mark.parametrize("name", STARTS)
def test_rollouts_follow_the_law_from_their_start(name):
    policy, run = model_of(name, 1), settings()
    starts = starts_of(name, 300)
    table = rollouts(policy, starts, run)
    for start in starts[: len(STARTS[name])]:
        rows, answer = places(table, start)
        exact = law(policy, start).exp()
        count = len(rows)
        assert count == 300 // len(STARTS[name]) * COMPLETIONS
        frequency = torch.bincount(answer, minlength=len(exact)) / count
        assert ((frequency - exact).abs() < 5 * (exact * (1 - exact) / count).sqrt() + 1e-3).all()
        shown = start != MASK
        for column, value in (("unmask_step", -1), ("log_prob", 0.0)):
            stored = torch.tensor(table[column].take(rows).to_pylist())
            assert (stored[:, shown] == value).all() and (stored[:, ~shown] != value).any()


@pytest.mark.facts
@pytest.mark.parametrize("name", STARTS)
def test_weights_lead_to_the_tilted_law_of_every_start(name):
    """E[e^ℓ 1[X = x]] = p^base(x | start) e^{r/α} from a policy that is not the base; W_k = K softmax_k(ℓ)."""
    policy, run = model_of(name, 1), settings()
    base = near(policy, model_of(name, 2))
    table = rollouts(policy, starts_of(name, 600), run)
    targets = make_targets(base, table, run)
    log_weight = torch.from_numpy(targets.columns["log_weight"])
    normalised = COMPLETIONS * log_weight.view(-1, COMPLETIONS).softmax(dim=1)
    torch.testing.assert_close(torch.from_numpy(targets.columns["weight"]), normalised.flatten())
    for start in map(torch.tensor, STARTS[name]):
        rows, answer = places(table, start)
        exact = (law(base, start) + reward_of(answers_to(start)) / ALPHA).exp()
        of_answer = log_weight[rows].exp()[:, None] * torch.nn.functional.one_hot(answer, len(exact))
        drawn_often = torch.bincount(answer, minlength=len(exact)) >= 50  # of few draws the error is not known
        for estimate, wanted in ((of_answer[:, drawn_often], exact[drawn_often]), (of_answer.sum(dim=1), exact.sum())):
            error = estimate.std(dim=0) / len(estimate) ** 0.5
            assert ((estimate.mean(dim=0) - wanted).abs() < 5 * error).all()
            assert (error / wanted).max() < 0.25
        assert drawn_often.sum() >= 9
        assert (law(base, start) - law(policy, start)).abs().max() > 0.2


@pytest.mark.parametrize("states", ["remasked_completions", "complementary_masks", "starting_states", "path_states"])
def test_only_holes_are_masked_and_learnt(states):
    run = settings()
    table = rollouts(model_of("llada", 1), starts_of("llada", 12), run)
    columns = make_targets(model_of("llada", 2), table, run).columns
    targets = pa.table({name: columns[name] for name in parquet.TARGETS.names}, schema=parquet.TARGETS)
    replay = dam.Replay.of_targets(targets, run.rollout, MASK, states)
    seen: dict[int, list[int]] = {}
    for batch in replay.batches(20, 64, 0, Stream.REPLAY, 1):
        check_states(batch, seen)
    if states == "remasked_completions":  # |M| is uniform on 1 … m
        for free, counts in seen.items():
            share = torch.bincount(torch.tensor(counts), minlength=free + 1) / len(counts)
            assert (share[1:] - 1 / free).abs().max() < 5 * (free / len(counts)) ** 0.5 / free


def check_states(batch: Batch, seen: dict[int, list[int]]) -> None:
    """What a start shows stays shown; padding stands right of the answers, is no token and enters no loss."""
    known = [torch.tensor(start) for start in STARTS["llada"]]
    for row in range(len(batch.state)):
        state = batch.state[row]
        length = int((state != PADDING).sum())
        (start,) = [start for start in known if len(start) == length]
        assert (state[length:] == PADDING).all() and not batch.loss_positions[row, :, length:].any()
        free = start == MASK
        assert (state[:length][~free] == start[~free]).all()
        assert not batch.loss_positions[row][:, :length][:, ~free].any()
        assert (batch.loss_positions[row][:, :length] <= (state[:length] == MASK)).all()
        seen.setdefault(int(free.sum()), []).append(int((state == MASK).sum()))


def test_blocks_of_training_states_are_those_of_rollouts():
    """The state within its block, with everything masked behind it: of holes at other places than the block's."""
    run = settings(block_length=2)
    table = rollouts(model_of("llada", 1), starts_of("llada", 12), run)
    columns = make_targets(model_of("llada", 2), table, run).columns
    targets = pa.table({name: columns[name] for name in parquet.TARGETS.names}, schema=parquet.TARGETS)
    seen = set()
    for batch in dam.replay(targets, run.rollout, run.algorithm, MASK).batches(20, 64, 0, Stream.REPLAY, 1):
        long = (batch.state != PADDING).sum(dim=1) == 5
        seen |= {(tuple((state == MASK).tolist()), tuple(read[0].tolist()))
                 for state, read in zip(batch.state[long], batch.loss_positions[long], strict=True)}  # fmt: skip
    hole, read = (False, True, False, True, True), {1: (1,), 2: (3,), 3: (4,)}
    wanted = {hole: read[1], (False, False, False, True, True): read[2], (False,) * 4 + (True,): read[3]}
    assert seen == {(masked, tuple(place in places_ for place in range(5))) for masked, places_ in wanted.items()}


@pytest.mark.facts
@pytest.mark.parametrize("weights", ["direct", "tempered"])
def test_training_reaches_the_tilted_law_of_every_start(weights):
    base, policy, run, starts = (
        model_of("tabular", 2),
        model_of("tabular", 2),
        settings(weights),
        starts_of("tabular", 64),
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.03)

    def distances() -> list[float]:
        found = []
        for start in map(torch.tensor, STARTS["tabular"]):
            wanted = (law(base, start) + reward_of(answers_to(start)) / ALPHA).log_softmax(dim=0)
            found.append((wanted.exp() * (wanted - law(policy, start))).sum().item())
        return found

    before = distances()
    for number in range(1, 9):
        columns = make_targets(base, rollouts(policy, starts, run, number), run).columns
        targets = pa.table({name: columns[name] for name in parquet.TARGETS.names}, schema=parquet.TARGETS)
        for batch in dam.replay(targets, run.rollout, run.algorithm, MASK).batches(40, 256, 0, Stream.REPLAY, number):
            optimizer.zero_grad()
            weighted_cross_entropy(policy, batch).mean().backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.7
    after = distances()
    assert min(before) > 0.1 and max(after) < 0.01, (before, after)


@pytest.mark.parametrize("value", ["mc", "pm"])
def test_guided_decoding_keeps_what_the_start_shows(value):
    """And raises the reward; a row does not depend on rows with more holes."""
    model, run = model_of("llada", 1), Svdd(name="svdd", alpha=0.1, candidates=4, lookahead=2, value=value)
    context = DecodeContext(
        run, load_task("examples.infill"), MASK, torch.empty(0, dtype=torch.long), 0, Evaluate(tokens_per_step=1)
    )
    start = torch.tensor([[0, M, 2, M, M], [M, 1, 1, 1, M]]).repeat(100, 1)
    noise = torch.rand(200, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reward: Reward = lambda rows, tokens: reward_of(tokens)  # noqa: E731

    def decoded(rows: slice) -> torch.Tensor:
        return decode_svdd(model, torch.full((200, 1), PROMPT)[rows], start[rows], noise[rows], reward, context)

    answers = decoded(slice(None))
    shown = start != MASK
    assert (answers[shown] == start[shown]).all() and (answers != MASK).all()
    for row in (0, 1):
        base = (law(model, start[row]).exp() * reward_of(answers_to(start[row]))).sum()
        assert reward_of(answers[row::2]).mean() > base + 0.1
        assert torch.equal(decoded(slice(row, row + 1)), answers[row : row + 1])
