"""The models of the grid: the same interface as LLaDA, saved and opened whole or not at all."""

import json

import pytest
import torch

from pipeline.ctmc import exact
from pipeline.errors import PipelineError
from pipeline.plugins import load_model
from pipeline.samplers.ancestral import path_log_prob, rollout
from pipeline.samplers.enumeration import posterior_table
from pipeline.samplers.posterior import log_posterior
from pipeline.settings.sections import ModelSection

VALUES, MASK = torch.tensor([3, 0, 4, 1]), 5
PROMPT = torch.tensor([2])


def fresh(name: str, length: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    model = load_model(name).create(ModelSection(name=name, hidden_size=16), 6, MASK, length)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", ["tabular", "mlp"])
def test_selected_logits_are_those_of_the_row_and_mask_is_banned(name):
    model, generator = fresh(name, length=3).double(), torch.Generator().manual_seed(1)
    tokens = torch.randint(6, (7, 5), generator=generator)
    select = (tokens == MASK) & (torch.arange(5) >= 2)
    logits = model(input_ids=tokens, select=select).logits
    assert logits.shape == (int(select.sum()), 6) and (logits[:, MASK] == -torch.inf).all()
    one_by_one = []
    for row, position in select.nonzero().tolist():
        single = torch.zeros(1, 5, dtype=torch.bool)
        single[0, position] = True
        one_by_one.append(model(input_ids=tokens[row, None], select=single).logits)
    torch.testing.assert_close(torch.cat(one_by_one), logits)


def test_a_table_of_long_answers_is_refused():
    with pytest.raises(PipelineError, match=r"16 tokens of 7 symbols need 16 · 7\^16 numbers"):
        load_model("tabular").create(None, 7, 6, 16)


def test_every_state_of_three_tokens_has_its_own_row_in_the_table():
    model = fresh("tabular", length=3)
    states = torch.cartesian_prod(*[torch.arange(6)] * 3)
    for position in range(3):
        at = states[states[:, position] == MASK]
        select = torch.zeros_like(at, dtype=torch.bool)
        select[:, position] = True
        logits = model(input_ids=at, select=select).logits[:, :MASK]
        assert len(logits.unique(dim=0)) == len(at) == 36


@pytest.mark.parametrize("name", ["tabular", "mlp"])
def test_recorded_log_prob_equals_teacher_forcing(name):
    model, noise = fresh(name), torch.rand(2, 50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prompt, start = PROMPT.expand(50, 1), torch.full((50, 2), MASK)
    start[::3, 1] = 4
    paths = rollout(model, prompt, start, mask_id=MASK, order_noise=noise[0], token_noise=noise[1])
    for batch in (3, 100):
        again = path_log_prob(model, prompt, paths, mask_id=MASK, states_per_batch=batch)
        assert (again - paths.log_prob).abs().max() < 1e-6


def test_installed_posteriors_are_read_back():
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    joint = logits.flatten().log_softmax(0).view(4, 4)
    model = fresh("tabular").double()
    load_model("tabular").install(model, VALUES, exact.posteriors(joint))
    table = posterior_table(model, PROMPT, VALUES, MASK)
    torch.testing.assert_close(table, exact.posteriors(joint), atol=1e-12, rtol=0)
    torch.testing.assert_close(exact.path_law(table), joint, atol=1e-12, rtol=0)
    state = torch.tensor([[VALUES[1], MASK]])
    log_prob = log_posterior(model, PROMPT[None], state, state == MASK)[0]
    torch.testing.assert_close(log_prob[VALUES].softmax(0), joint[1].softmax(0))  # x_2 given x_1 = the second value


@pytest.mark.parametrize("name", ["tabular", "mlp"])
def test_save_and_load(name, tmp_path):
    model, plugin = fresh(name), load_model(name)
    plugin.save(model, tmp_path)
    again = plugin.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    torch.testing.assert_close(
        posterior_table(again, PROMPT, VALUES, MASK), posterior_table(model, PROMPT, VALUES, MASK)
    )
    config = json.loads((tmp_path / "config.json").read_text())
    for broken, message in [
        ({**config, "model_type": "gpt2"}, "holds the architecture 'gpt2'"),
        ({**config, "length": 3}, "cannot load the weights"),
        ({**config, "depth": 3}, "cannot load the weights"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(PipelineError, match=message):
            plugin.load(tmp_path)


def test_a_table_holds_a_law_with_tokens_that_never_occur():
    """log 0 is stored as `NEVER`; where the other token itself never occurs, any finite numbers do."""
    model, joint = fresh("tabular"), torch.rand(4, 4, dtype=torch.float64) + 0.1
    joint[0, 0], joint[2] = 0.0, 0.0
    load_model("tabular").install(model, VALUES, exact.posteriors((joint / joint.sum()).log()))
    assert model.table.isfinite().all()
    table = posterior_table(model, PROMPT, VALUES, MASK).exp()
    torch.testing.assert_close(table[0, :4], (joint / joint.sum(0)).T, atol=1e-6, rtol=0)
    assert table[0, 0, 0] < 1e-15
