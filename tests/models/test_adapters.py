"""Adapters: the base stays what it is, without a second copy, saved in peft's layout, merged, refused on another."""

import json
import os
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.models import adapters, merging, mlp
from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import cast_weights, load_frozen, load_policy, make_trainable
from pipeline.samplers.ancestral import path_log_prob, rollout
from pipeline.settings.sections import Adapter, Train
from pipeline.stages.export import write_merged
from pipeline.text.tokenizer import character_tokenizer
from pipeline.training.adamw import AdamW
from tests.conftest import llada as tiny

TOKENS = torch.randint(8, (4, 6), generator=torch.Generator().manual_seed(0))


def section(**changes: object) -> Train:
    adapter = Adapter(**{"rank": 4, "alpha": 8, "dropout": 0.5, **changes})
    return Train(adapter=adapter, gradient_checkpointing=True)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    model(input_ids=TOKENS).logits[..., 0].log_softmax(dim=1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


@pytest.fixture
def base(tmp_path):
    PLUGIN.save(cast_weights(tiny(9, 8), "bfloat16"), tmp_path / "round_000" / "policy")
    return tmp_path / "round_000" / "policy"


@pytest.fixture
def trained(base):
    """A policy of round 1 on disk, and in memory as it went on to train."""
    out = base.parent.parent / "round_001" / "policy"
    model = PLUGIN.load(base)
    make_trainable(model, PLUGIN, section(), 0, base, out)
    step(model, AdamW(model, section()))
    PLUGIN.save(model, out)
    return out, model


def test_the_base_stays_and_shares_its_weights(base, trained):
    """Base and behavior policy are the training module's own weights, also between its forward and backward pass."""
    path, model = trained
    wanted, behavior = logits(PLUGIN.load(base)), logits(model)
    views = [load_frozen(place, PLUGIN, model, torch.device("cpu")) for place in (base, path)]
    assert [list(view.parameters()) for view in views] == [[], []]
    model.train()
    loss = model(input_ids=TOKENS).logits[..., 0].sum()
    assert torch.equal(logits(views[0]), wanted) and torch.equal(logits(views[1]), behavior)
    assert model.training and all(value.requires_grad for _, value in adapters.own_parameters(model))
    loss.backward()
    step(model, AdamW(model, section()))
    assert not torch.equal(logits(model), behavior)
    assert torch.equal(logits(views[0]), wanted) and torch.equal(logits(views[1]), behavior)


def test_only_adapters_train_in_the_type_of_the_base(trained):
    path, model = trained
    optimizer = AdamW(model, section())
    assert all(".lora_" in name for name in optimizer.trained)
    assert len(list(optimizer.copies())) == len(optimizer.trained)
    assert {master.dtype for master in optimizer.masters.values()} == {torch.float32}
    saved = load_file(path / "adapter_model.safetensors")
    assert len(saved) == len(optimizer.trained) == 2 * 7 * 2
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in saved
    assert json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../round_000/policy"


def test_opened_again_by_this_and_by_peft(base, trained, tmp_path):
    path, model = trained
    again = PLUGIN.load(path)
    assert torch.equal(logits(again), logits(model)) and not any(value.requires_grad for value in again.parameters())
    peft = PeftModel.from_pretrained(PLUGIN.load(base), str(path), autocast_adapter_dtype=False)
    torch.testing.assert_close(logits(peft), logits(model))
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert torch.equal(logits(PLUGIN.load(tmp_path.with_name("moved") / "round_001" / "policy")), logits(model))


def log_prob(model: torch.nn.Module) -> torch.Tensor:
    return logits(model)[..., :8].log_softmax(dim=-1)


def test_merged(trained, tmp_path):
    """The same law as apart: in fp32 to 1e-4, in bfloat16 to what rounding changes anyway. The command writes it."""
    path, model = trained
    (path / "tokenizer.json").write_text(character_tokenizer("01234567").to_str())
    write_merged(path, tmp_path / "merged", "llada", {})
    plain = PLUGIN.load(tmp_path / "merged")
    assert not adapters.are_on(plain) and {value.dtype for value in plain.parameters()} == {torch.bfloat16}
    exact = cast_weights(PLUGIN.load(path), "float32")
    wanted = log_prob(exact)
    rounding = (log_prob(model) - wanted).abs().mean()
    assert 0 < (log_prob(plain) - wanted).abs().mean() < 3 * rounding
    merging.merge(exact)
    torch.testing.assert_close(log_prob(exact), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-5, 1e-4])
def test_merging_loses_no_update_on_average(size):
    """With W ~ N(0, 0.02²) the nearest bfloat16 would keep 0.3 and 0.99 of updates of these sizes."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(400, 300, generator=generator) * 0.02).bfloat16().float()
    update = torch.randn(400, 300, generator=generator) * size
    found = merging._rounded(weight + update, torch.bfloat16, 0)
    assert found.dtype == torch.bfloat16
    moved = found.float() - weight
    error = ((moved - update) * update).std() * update.numel() ** 0.5 / update.square().sum()
    assert (moved * update).sum() / update.square().sum() == pytest.approx(1, abs=5 * float(error))
    step = torch.maximum(weight.abs(), update.abs()) * 2**-6
    assert ((moved - update).abs() < step).all()  # one of the two neighbours
    assert torch.equal(merging._rounded(weight, torch.bfloat16, 0).float(), weight)


def test_which_law_is_recorded(base, trained):
    """Rollouts are drawn from, and weighed with, the merged policy and the plain base; losses compare adapters apart.

    So a loss's ratio to the behavior policy is 1 before the first update, and a weight e^{log p^base - log p^u + r/α}
    has the law that was sampled in it.
    """
    path, _ = trained
    for place in (base, path):
        (place / "tokenizer.json").write_text(character_tokenizer("01234567").to_str())
    sampler, _, mask_id = load_policy(path, PLUGIN)
    apart, _, _ = load_policy(path, PLUGIN, merged=False)
    prompt, start = TOKENS[:, :2], torch.full((4, 4), mask_id)
    noise = dict(zip(("order_noise", "token_noise"), torch.rand(2, 4, 4, dtype=torch.float64), strict=True))
    drawn = rollout(sampler, prompt, start, mask_id=mask_id, **noise)

    def replayed(model: torch.nn.Module) -> torch.Tensor:
        return path_log_prob(model, prompt, drawn, mask_id=mask_id)

    torch.testing.assert_close(replayed(sampler), drawn.log_prob, atol=1e-4, rtol=0)
    assert (replayed(apart) - drawn.log_prob).abs().max() > 1e-3
    assert torch.equal(replayed(load_policy(base, PLUGIN)[0]), replayed(PLUGIN.load(base)))
    make_trainable(apart, PLUGIN, section(), 0, base, path.parent.parent / "round_002" / "policy")
    behavior = load_frozen(path, PLUGIN, apart, torch.device("cpu"))
    assert torch.equal(replayed(behavior), replayed(apart))


def test_training_goes_on_from_saved_adapters(base, trained):
    path, _ = trained
    model, out = PLUGIN.load(path), path.parent.parent / "round_002" / "policy"
    before = logits(model)
    make_trainable(model, PLUGIN, section(), 0, base, out)
    assert torch.equal(logits(model), before)
    with pytest.raises(PipelineError, match=r"train.adapter: the policy's adapters have r 4, not 8"):
        make_trainable(PLUGIN.load(path), PLUGIN, section(rank=8), 0, base, out)
    with pytest.raises(PipelineError, match=r"train.adapter: .*c_attn"):
        make_trainable(PLUGIN.load(base), PLUGIN, section(targets=("c_attn",)), 0, base, out)


def other_base(base, path):
    PLUGIN.save(cast_weights(tiny(9, 8, seed=1), "bfloat16"), base)


def no_base(base, path):
    shutil.rmtree(base)


def another_kind(base, path):
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "base_model_name_or_path": str(base)}))


def one_missing(base, path):
    tensors = load_file(path / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), path / "adapter_model.safetensors")


def halved(base, path):
    file = path / "adapter_model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def base_elsewhere(base, path):
    shutil.copytree(base, base.parents[2].with_name(f"{base.parents[2].name}-elsewhere") / "x")
    config = json.loads((path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"../../../../{base.parents[2].name}-elsewhere/x"
    (path / "adapter_config.json").write_text(json.dumps(config))


def integers(base, path):
    tensors = load_file(path / "adapter_model.safetensors")
    save_file({name: value.int() for name, value in tensors.items()}, path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (base_elsewhere, "base_model_name_or_path '../../../../.*-elsewhere/x' leads out of"),
        (integers, "the tensor 'base_model.* has the type torch.int32, not a float"),
        (other_base, "holds adapters of another base than"),
        (no_base, "base_model_name_or_path names '../../round_000/policy', which is not a model directory"),
        (another_kind, "holds adapters of the kind .*IA3, not LORA"),
        (one_missing, "does not fit its adapter_config.json and base: see '.*layers.0"),
        (halved, "is not a complete safetensors file"),
    ],
)
def test_what_does_not_fit_is_refused(base, trained, damage, message):
    damage(base, trained[0])
    with pytest.raises(PipelineError, match=message):
        PLUGIN.load(trained[0])


def test_a_base_may_lie_on_another_disk(base, trained, tmp_path_factory):
    """The user has moved the large round 0 there and left a link."""
    before, moved = logits(PLUGIN.load(trained[0])), tmp_path_factory.mktemp("disk") / "round_000"
    shutil.move(base.parent, moved)
    base.parent.symlink_to(moved)
    assert torch.equal(logits(PLUGIN.load(trained[0])), before)


def test_small_models_take_none(tmp_path, base):
    with pytest.raises(PipelineError, match=r"train\.adapter: this model takes no adapters"):
        make_trainable(torch.nn.Linear(1, 1), mlp.PLUGIN, section(), 0, tmp_path, tmp_path)
    checkpointing = Train(gradient_checkpointing=True)
    with pytest.raises(PipelineError, match="gradient_checkpointing: this model cannot recompute its activations"):
        make_trainable(torch.nn.Linear(1, 1), mlp.PLUGIN, checkpointing, 0, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_dora", True), ("alora_invocation_tokens", [1]), ("bias", "all"), ("init_lora_weights", "pissa")],
)
def test_variants_of_lora_are_refused(trained, key, value):
    """Their law is not W + (α/r) B A, or their base not W."""
    path = trained[0] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(PipelineError, match=f"adapter_config.json' says {key}: .*, this project supports only"):
        PLUGIN.load(trained[0])


@pytest.mark.parametrize("changes", [{"rank_pattern": [1]}, {"r": "4"}, {"target_modules": 3}])
def test_options_of_another_type_are_refused(trained, changes):
    path = trained[0] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(PipelineError, match=r"adapter_config\.json': |does not fit its adapter_config\.json"):
        PLUGIN.load(trained[0])
