"""A settings file cannot ask for more memory, time or recursion than its size allows."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.settings.yaml_file import MAX_BYTES, read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 9)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "is not valid YAML: aliases stand for more than 100000 values"),
        (MERGED, "is not valid YAML: aliases stand for more than 100000 values"),
        (CHAIN, "values are nested more than 30 deep"),
        ("[" * 31 + "]" * 31, "values are nested more than 30 deep"),
        ("[" * 100_000, "values are nested more than 30 deep"),
        ("a: &a [*a]", "params.yaml is not valid YAML: an alias stands inside the value that it names (line 1, colu"),
        ("a: 1\nb: [1\nc", "expected ',' or ']', but got '<stream end>' (line 3, column 2)"),
        ("a: 1\a", "params.yaml is not valid YAML: the character #x0007 at place 5 is not allowed"),
        ("x" * (MAX_BYTES + 1), f"has more than {MAX_BYTES} bytes"),
        ("a: " + "9" * 5000, "is not valid YAML: a number of more than 100 digits"),
        ('a: "\\ud800"', "is not valid YAML: 'utf-8' codec can't encode character"),
        ("a: 0x" + "f" * 9000, "is not valid YAML: a number of more than 100 digits"),
        ("a: 2024-13-45", "is not valid YAML: month must be in"),
        ("a: !!int ''", "is not valid YAML: string index out of range"),
        ("a: !!bool maybe", "is not valid YAML: 'maybe'"),
        ("a: !!timestamp soon", "is not valid YAML: "),
        ("? [a]\n: b", "found unhashable key"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "is not valid YAML: expected a single document"),
    ],
)
def test_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as refused:
        read_yaml(path)
    assert message in str(refused.value) and len(str(refused.value)) < 400
    assert "<unicode string>" not in str(refused.value) and "\n" not in str(refused.value)


def test_many_different_keys_take_linear_time(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("".join(f"k{number}: 1\n" for number in range(20_000)))
    content = read_yaml(path)
    assert isinstance(content, dict) and len(content) == 20_000


def test_aliases_and_merged_keys_as_usual(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    one = {"x": 1, "y": 2}
    assert read_yaml(path) == {"a": one, "b": {"x": 1, "y": 3}, "c": [one, one]}
    with pytest.raises(PipelineError, match=r"cannot read .*: No such file or directory"):
        read_yaml(Path("no/such/file"))
