"""Checkpoints: config.json, weights and their index, tokenizers, chat templates, adapters."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import load_policy, make_trainable, save_policy
from pipeline.settings.sections import Adapter, Train
from pipeline.text import prompts
from pipeline.text.prompts import load_prompt_format
from pipeline.text.tokenizer import character_tokenizer
from tests.conftest import task_of
from tests.hostile.harness import changed, damaged, examples, json_bytes, line_of, working_directory
from tests.models import hub

TASK = task_of("countdown", template="chat")
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
TOKENIZER = {"bos_token": "q", "eos_token": {"content": "r"}, "chat_template": TEMPLATE}


def tokenizer() -> Tokenizer:
    """Characters, of which the last is the token 38, the model's [MASK]."""
    return character_tokenizer("abcdefghijklmnopqrstuvwxyz0123456789. ")


@cache
def checkpoint() -> dict[str, bytes]:
    """Every file of a policy in the Hub's layout, and of adapters on it."""
    with working_directory() as work:
        config = {**hub.CONFIG, "n_layers": 1}
        base = hub.write(work / "base", config, hub.random_tensors(config))
        tokenizer().save(str(base / "tokenizer.json"))
        (base / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
        module = PLUGIN.load(base)
        train = Train(adapter=Adapter(rank=2, alpha=4, targets=("q_proj",)))
        make_trainable(module, PLUGIN, train, 0, base, work / "adapters")
        save_policy(work / "adapters", module, tokenizer(), PLUGIN, base)
        return {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}


def unpack(work: Path, name: str = "", content: bytes = b"") -> None:
    """The files of the checkpoint, one of them with other bytes."""
    for file, text in {**checkpoint(), **({name: content} if name else {})}.items():
        (work / file).parent.mkdir(exist_ok=True)
        (work / file).write_bytes(text)


def use(path: Path) -> None:
    """Open a policy, ask it something, and write it again."""
    module, opened, mask = load_policy(path, PLUGIN)
    rows = load_prompt_format(path, module, opened, TASK).prompts(["what is 1"], [0], 8)
    with torch.no_grad():
        module(input_ids=torch.cat([rows[0], torch.tensor([mask])])[None])
    save_policy(Path("again"), module, opened, PLUGIN, path)


@pytest.mark.parametrize("directory", ["base", "adapters"])
def test_the_unchanged_checkpoint_works(directory):
    with working_directory() as work:
        unpack(work)
        use(work / directory)
        assert (work / "again" / "model.safetensors").is_file()


JSON = {
    "base/config.json": "base",
    "base/tokenizer.json": "base",
    "base/tokenizer_config.json": "base",
    "base/model.safetensors.index.json": "base",
    "adapters/adapter_config.json": "adapters",
}


@examples(100)
@given(st.sampled_from(sorted(JSON)), st.data())
def test_json(name, data):
    valid = checkpoint()[name]
    text = data.draw(changed(json.loads(valid)).map(json_bytes) | damaged(valid))
    with working_directory() as work:
        unpack(work, name, text)
        line_of(lambda: use(work / JSON[name]), str(work), "prompt of item", "chat template")


WEIGHTS = {"base/model-00001-of-00002.safetensors": "base", "adapters/adapter_model.safetensors": "adapters"}


@examples(60)
@given(st.sampled_from(sorted(WEIGHTS)), st.data())
def test_weights(name, data):
    """The header, which is JSON behind its length, or any of the bytes."""
    valid = checkpoint()[name]
    size = int.from_bytes(valid[:8], "little")
    header = json.loads(valid[8 : 8 + size])
    made = data.draw(changed(header).map(json_bytes) | damaged(valid[8 : 8 + size]))
    length = data.draw(st.sampled_from((len(made), len(made), len(made), 0, 2**63, 2**64 - 1)))
    text = data.draw(st.just(length.to_bytes(8, "little") + made + valid[8 + size :]) | damaged(valid))
    with working_directory() as work:
        unpack(work, name, text)
        line_of(lambda: use(work / WEIGHTS[name]), str(work))


EXPRESSIONS = st.sampled_from(
    (
        "messages",
        "messages[9]",
        "message.role",
        "messages[0]['content'] | upper",
        "1 / 0",
        "none + 1",
        "loop",
        "'x' * 9",
        "raise_exception('no')",
        "raise_exception(messages)",
        "''.__class__.__mro__[1].__subclasses__()",
        "cycler.__init__.__globals__",
        "messages.append(1)",
        "messages[0].update(a=1)",
        "self._TemplateReference__context",
        "range(10**9)",
        "range(10**4) | join",
        "undefined.x",
        "messages | tojson",
        "strftime_now('%Y')",
        "strftime_now('%' * 9)",
        "namespace(a=1)",
        "lipsum(n=2)",
        "'%s%s' % 1",
        "'{0.a}'.format(1)",
        "messages | map(attribute='x') | list",
        "messages | sort(attribute='zz')",
        "'a' | int / 0",
        "dict(a=1).b.c",
        "9 ** 9",
        "bos_token + 1",
        "tools[0]",
        "'\\ud800'",
        '"\\x00" * 9',
        "messages | batch(0) | list",
        "'a' | indent('b')",
        "'<|mdm_mask|>'",
        "'[MASK]'",
    )
)
STATEMENTS = st.sampled_from(
    (
        "{{{{ {0} }}}}",
        "{{% if {0} %}}a{{% endif %}}",
        "{{% for x in {0} %}}{{{{ x }}}}{{% endfor %}}",
        "{{% set x = {0} %}}{{{{ x }}}}",
        "{{% macro m() %}}{{{{ {0} }}}}{{{{ m() }}}}{{% endmacro %}}{{{{ m() }}}}",
        "{{% include {0} %}}",
        "{{% import '/etc/passwd' as x %}}",
        "{{% extends {0} %}}",
        "{{% generation %}}{{{{ {0} }}}}{{% endgeneration %}}",
        "{{{{ {0}",
        "{{% if %}}{0}",
        "{{# {0}",
        "{{% call {0}() %}}{{% endcall %}}",
    )
)


@examples(60)
@given(st.lists(st.builds(str.format, STATEMENTS, EXPRESSIONS), min_size=1, max_size=3), st.booleans(), st.data())
def test_templates(parts, separate, data):
    with working_directory() as work:
        unpack(work)
        text = "".join(parts) + TEMPLATE
        if separate:
            (work / "base" / "chat_template.jinja").write_bytes(
                data.draw(st.just(text.encode()) | damaged(text.encode()))
            )
        else:
            (work / "base" / "tokenizer_config.json").write_text(json.dumps(TOKENIZER | {"chat_template": text}))
        line_of(lambda: use(work / "base"), "chat template", "prompt of item", str(work))


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{{ 9 ** (9 ** (9 ** 9)) }}",
        "{% set ns = namespace(x='xxxxxxxxxx') %}{% for a in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ lipsum(n=99999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_templates_without_end(text, monkeypatch):
    """Time and memory of a chat template are bounded."""
    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 1)
    with working_directory() as work:
        unpack(work)
        (work / "base" / "chat_template.jinja").write_text(text)
        assert line_of(lambda: use(work / "base"), "chat template")


def test_policies_are_found_without_their_base():
    with working_directory() as work:
        unpack(work)
        shutil.rmtree(work / "base")
        assert line_of(lambda: use(work / "adapters"), "adapter_config.json")
