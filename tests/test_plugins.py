"""A user's own module: mistakes in its name, and a PLUGIN that forgets what the module defines."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.plugins import load_task
from pipeline.settings.sections import ModelSection

IMPORTED = "from dataclasses import replace\nfrom pipeline.tasks.gsm8k import PLUGIN\n"
SCORE = "def score(item, answer):\n    return {'reward': 1.0}\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A package of its own name for each test, since modules are imported once."""
    path = tmp_path / f"package{abs(hash(request.node.nodeid))}"
    path.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_an_own_score_that_the_plugin_does_not_have(package):
    (package / "forgot.py").write_text(IMPORTED + SCORE)
    with pytest.raises(PipelineError, match=r"defines score, but its PLUGIN is that of pipeline.tasks.gsm8k"):
        load_task(f"{package.name}.forgot")


@pytest.mark.parametrize("left", ["PLUGIN", "PLUGIN: object"])
def test_an_own_score_that_it_has(package, left):
    (package / "mine.py").write_text(f"{IMPORTED}{SCORE}{left} = replace(PLUGIN, score=score)")
    assert load_task(f"{package.name}.mine").score(None, "") == {"reward": 1.0}


def test_a_plugin_may_be_passed_on_as_it_is(package):
    (package / "same.py").write_text(IMPORTED + "def helper():\n    pass\n")
    assert load_task(f"{package.name}.same") is load_task("gsm8k")


def test_the_nearest_module_of_the_package(package):
    (package / "vowels.py").write_text(IMPORTED)
    with pytest.raises(PipelineError, match=rf"did you mean '{package.name}\.vowels'"):
        load_task(f"{package.name}.vowel")


def test_a_model_is_looked_for_where_params_are_read(package):
    (package / "tiny.py").write_text("")
    for name, why in (("tinny", f": did you mean '{package.name}.tiny'"), ("no.where", ": ModuleNotFoundError")):
        with pytest.raises(ValueError, match=rf"cannot find model '{package.name}\.{name}'{why}"):
            ModelSection(name=f"{package.name}.{name}")
    assert ModelSection(name=f"{package.name}.tiny").name == f"{package.name}.tiny"


@pytest.mark.parametrize("name", ["my_rewards/vowels.py", "my_rewards/vowels", "my_rewards.vowels.py"])
def test_a_file_instead_of_an_import_path(name):
    with pytest.raises(PipelineError, match=r"must be an import path, not a file: write my_rewards\.vowels$"):
        load_task(name)
