"""Masked language models of transformers: their logits, the way back, adapters, and what is refused."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, EsmTokenizer

from pipeline.errors import PipelineError
from pipeline.models import base, masked_lm
from pipeline.models.files.masked_lm import KINDS, linear_layers
from pipeline.models.policy_directory import load_policy, make_trainable, save_policy
from pipeline.runtime.compilation import compile_blocks
from pipeline.settings.sections import Adapter, Train
from pipeline.text.special_tokens import frame_of, special_ids
from pipeline.text.tokenizer import load_tokenizer
from tests.conftest import ROOT
from tests.models import encoders

FOUR = ("bert", "roberta", "modernbert", "esm")
MASK = encoders.tokenizer().token_to_id("<mask>")
LETTERS = slice(4, 4 + len(encoders.LETTERS))


def states(rows: int = 3, length: int = 12) -> torch.Tensor:
    """Letters and masks."""
    return torch.randint(LETTERS.start, MASK + 1, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tmp_path, kind, side):
    """Each row alone, as the tokenizer writes it, by transformers' own forward pass."""
    opened = masked_lm.load(encoders.write(tmp_path, kind))
    theirs, tokens = AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), states()
    shown = torch.ones_like(tokens)
    if side != "none":
        shown[1, :5], shown[2, :2] = 0, 0
        shown = shown if side == "left" else shown.flip(1)
    with torch.no_grad():
        found = opened(input_ids=tokens * shown, attention_mask=shown).logits
        for row in range(len(tokens)):
            bare = tokens[row, shown[row] == 1]
            text = encoders.tokenizer(kind).decode(bare.tolist(), skip_special_tokens=False)
            whole = torch.tensor([encoders.tokenizer(kind).encode(text).ids])
            assert torch.equal(whole[0, 1:-1], bare)
            wanted = theirs(input_ids=whole).logits[0, 1:-1]
            torch.testing.assert_close(found[row, shown[row] == 1][:, LETTERS], wanted[:, LETTERS], atol=1e-4, rtol=0)
    assert wanted.std() > 0.5
    assert found[..., [*range(LETTERS.start), MASK]].isneginf().all()  # special tokens


def test_selected_positions_and_tokens(tmp_path, monkeypatch):
    """The head runs on selected positions; in pieces, values and gradients stay the same."""
    model, tokens = masked_lm.load(encoders.write(tmp_path, "roberta")), states()
    select = tokens == MASK
    logits = model(input_ids=tokens).logits
    torch.testing.assert_close(model(input_ids=tokens, select=select).logits, logits[select])
    wanted = torch.randint(LETTERS.start, LETTERS.stop, (int(select.sum()), 3))
    found = []
    for chunk in (base.CHUNK, 2 * model.config.vocab_size):
        monkeypatch.setattr(base, "CHUNK", chunk)
        model.zero_grad()
        log_prob = model(input_ids=tokens, select=select, tokens=wanted).log_prob
        log_prob.sum().backward()
        torch.testing.assert_close(log_prob, logits[select].log_softmax(dim=1).gather(1, wanted))
        found.append(model.lm_head.dense.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_as_it_came(tmp_path, kind):
    """Names, values, configuration and tokenizer; opened and saved once more, the files are the same to the bit."""
    encoders.write(tmp_path / "hub", kind)
    for before, after in (("hub", "saved"), ("saved", "again")):
        model, tokenizer, _ = load_policy(tmp_path / before, masked_lm.PLUGIN)
        save_policy(tmp_path / after, model, tokenizer, masked_lm.PLUGIN, tmp_path / before)
    hub, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "saved"))
    assert hub.keys() == saved.keys() and all(torch.equal(hub[name], saved[name]) for name in hub)
    for name in ("hub", "again"):
        for file in ("config.json", "model.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()
    theirs, whole = AutoTokenizer.from_pretrained(tmp_path / "saved"), encoders.tokenizer(kind).encode("abba").ids
    assert theirs("abba").input_ids == whole and theirs.mask_token_id == MASK
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")(input_ids=torch.tensor([whole])).logits
        found = model(input_ids=torch.tensor([whole[1:-1]])).logits
    torch.testing.assert_close(found[0, :, LETTERS], logits[0, 1:-1, LETTERS])


def targets(path) -> tuple[str, ...]:
    return tuple(sorted({name.rpartition(".")[2] for name in linear_layers(path)}))


@pytest.mark.parametrize("kind", FOUR)
def test_adapters_on_the_architectures_own_layers(tmp_path, kind):
    """Saved in peft's layout and merged; the base stays as it is."""
    base, out, tokens = encoders.write(tmp_path / "round_000" / "policy", kind), tmp_path / "policy", states()
    model, tokenizer, _ = load_policy(base, masked_lm.PLUGIN, merged=False)
    before = model(input_ids=tokens).logits
    train = Train(adapter=Adapter(rank=2, alpha=4, dropout=0.0, targets=targets(base)))
    make_trainable(model, masked_lm.PLUGIN, train, 0, base, out)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all("lora" in name and "layer" in name for name in trained)  # none in the head
    for value in trained.values():
        torch.nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        after = model(input_ids=tokens).logits
        save_policy(out, model, tokenizer, masked_lm.PLUGIN, base)
        merged, _, _ = load_policy(out, masked_lm.PLUGIN)
        torch.testing.assert_close(merged(input_ids=tokens).logits, after, atol=1e-4, rtol=1e-4)
        theirs = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(base), out)
        whole = torch.nn.functional.pad(tokens, (1, 0), value=model.frame.before[0])
        whole = torch.nn.functional.pad(whole, (0, 1), value=model.frame.after[0])
        found = theirs(input_ids=whole).logits[:, 1:-1, LETTERS]
    torch.testing.assert_close(found, after[..., LETTERS], atol=1e-4, rtol=1e-4)
    assert (after - before)[..., LETTERS].abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_that_trains_has_a_gradient(tmp_path, kind):
    """As DDP demands; with gradient checkpointing, to the same gradients."""
    encoders.write(tmp_path, kind)
    gradients = []
    for recompute in (False, True):
        model, tokens = masked_lm.load(tmp_path).train(), states()
        if recompute:
            masked_lm.PLUGIN.recompute(model)
        wanted = torch.full((int((tokens == MASK).sum()), 1), LETTERS.start)
        model(input_ids=tokens, select=tokens == MASK, tokens=wanted).log_prob.sum().backward()
        assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 30), ("roberta", 28), ("esm", 30), ("modernbert", 30)])
def test_the_most_tokens(tmp_path, kind, limit):
    """Of 32 positions two are taken by the special tokens, and two lie before the first that RoBERTa uses."""
    model = masked_lm.load(encoders.write(tmp_path, kind))
    assert masked_lm.PLUGIN.check(tmp_path).max_position_embeddings == limit
    with torch.no_grad():
        assert model(input_ids=states(1, limit)).logits[..., LETTERS].isfinite().all()
        with pytest.raises(PipelineError, match=f"have {limit + 1} tokens, but the model takes {limit}"):
            model(input_ids=states(1, limit + 1))


def test_a_chat_template_writes_the_special_tokens_itself(tmp_path):
    encoders.write(tmp_path, "modernbert")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "[CLS]{{ messages }}[SEP]"}))
    model = masked_lm.load(tmp_path)
    assert (model.frame, model.limit) == (((), ()), 32)
    with torch.no_grad():
        logits = model(input_ids=states()).logits
        wanted = AutoModelForMaskedLM.from_pretrained(tmp_path)(input_ids=states()).logits
    torch.testing.assert_close(logits[..., :MASK], wanted[..., :MASK])  # [SEP] ends an answer


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    """It is not needed for these architectures, and no saved policy points to any."""
    trap = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    encoders.write(tmp_path / "hub", "bert")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    code = {"AutoConfig": "modeling_x.C", "AutoModelForMaskedLM": "modeling_x.M"}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    (tmp_path / "hub" / "modeling_x.py").write_text(trap)
    masked_lm.PLUGIN.save(masked_lm.load(tmp_path / "hub"), tmp_path / "saved")
    assert not (tmp_path / "ran").exists()
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nomic", "auto_map": {"A": "b"}}, "'nomic', not one of bert, .*code of its own .auto_map. is"),
        ({"model_type": "bart"}, "holds the architecture 'bart', not one of bert"),
        ({"model_type": None}, "holds the architecture 'None', not one of bert"),
        ({"is_decoder": True}, "config.json says is_decoder: True, which is not supported"),
        ({"quantization_config": {"bits": 4}}, "config.json says quantization_config"),
        ({"hidden_size": None}, "config.json: hidden_size: input should be a valid integer"),
        ({"hidden_size": 10**6}, "2 layers of width 1000000 and 32, but the weights have "),
        ({"num_hidden_layers": 10**4}, "num_hidden_layers: input should be less than or equal to 1000"),
        ({"num_hidden_layers": 3}, "missing keys: bert.encoder.layer.2"),
        ({"intermediate_size": 16}, r"cannot load the weights in .*mismatch"),
        ({"vocab_size": 64}, "says vocab_size: 64, but no tensor has as many rows"),
        ({"max_position_embeddings": 2}, "of 2 positions .config.json. none is left"),
        ({"num_attention_heads": 3}, "16 values do not split into 3 heads"),
        ({"hidden_act": "none"}, "cannot load the weights"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    encoders.write(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(PipelineError, match=message) as refused:
        masked_lm.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_weights_that_are_missing(tmp_path):
    """Those of the head, say, of an encoder without one; what belongs to other heads is left out."""
    encoders.write(tmp_path, "bert")
    tensors = load_file(tmp_path / "model.safetensors")
    pooler = {"bert.pooler.dense.weight": torch.zeros(16, 16), "bert.pooler.dense.bias": torch.zeros(16)}
    save_file({**tensors, **pooler}, tmp_path / "model.safetensors", {"format": "pt"})
    masked_lm.load(tmp_path)
    bare = {name: value for name, value in tensors.items() if not name.startswith("cls.")}
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(PipelineError, match="missing keys: cls"):
        masked_lm.load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(PipelineError, match=r"pytorch_model\.bin is never opened, as it may run code"):
        masked_lm.load(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_compiled_blocks_compute_the_same(tmp_path, kind):
    model, tokens = masked_lm.load(encoders.write(tmp_path, kind)), states()
    shown = torch.ones_like(tokens)
    shown[1, :4] = 0
    with torch.no_grad():
        wanted = [model(input_ids=tokens, attention_mask=mask).logits for mask in (None, shown)]
        compile_blocks(model, True, backend="eager")
        for logits, mask in zip(wanted, (None, shown), strict=True):
            found = model(input_ids=tokens, attention_mask=mask).logits
            torch.testing.assert_close(found[shown == 1], logits[shown == 1])


def test_the_tokenizer_that_the_docs_write(tmp_path, monkeypatch):
    """docs/masked_lm.md, word for word, against transformers' tokenizer for ESM."""
    monkeypatch.chdir(tmp_path)
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    code = (ROOT / "docs" / "masked_lm.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(code, {})
    ours, theirs = load_tokenizer(tmp_path), EsmTokenizer(str(tmp_path / "vocab.txt"))
    for text in ("MKTAYIAKQR", "EVQL<mask><mask>GG", "X-Z."):
        assert ours.encode(text).ids == theirs(text).input_ids
    assert frame_of(ours) == ((0,), (2,)) and special_ids(ours) == {0, 1, 2, 3, 32}
    assert ours.decode(ours.encode("MKTA").ids) == "MKTA"
