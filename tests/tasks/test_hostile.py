"""Texts made to hang or crash a scorer: each is scored at once."""

import time

import pytest

from tests.conftest import task_of

SIZE = 100_000
REFERENCES = {"countdown": ("?", [[3, 4, 5], 23]), "gsm8k": ("?", "18"), "math500": ("?", r"\frac{1}{2}")}
REFERENCES["sudoku"] = ("1000001000000001", "1234341221434321")
TAGS = "<reasoning>", "</reasoning><answer>", "</reasoning>\n<answer>\n", "<answer>", "</answer>", "<answer>```1", "```"
UNITS = (
    *(
        "(",
        ")",
        "{",
        "}",
        "[",
        "9",
        "1 ",
        "-",
        "9**",
        "9//",
        "1+",
        "1/",
        "=",
        "= 1",
        "1=",
        "1 = ",
        " ",
        "\n",
        "\\",
        "$",
        ",",
        ".",
    ),
    *("\\boxed{", "\\boxed ", "\\boxed{\n", "\\boxed{}", "\\boxed{.}", "\\boxed{1", "\\boxed   ", "{}", "\\fbox{"),
    *(
        "\\frac",
        "\\frac{",
        "\\frac{1}{",
        "\\sqrt",
        "\\sqrt{",
        "\\text{ ",
        "\\text{",
        "\\left(",
        "1,",
        "1,000",
        "9^",
        "x^{9",
        "#### 1",
    ),
    *("<|eot_id|>", "<|endoftext|>", "1\n", "1" * 16 + " ", "\x00", "٣", "\u2028", *TAGS),
)
WRAPPERS = ("{}", "\\boxed{{{}}}", "<answer>{}</answer>", "<answer>\\boxed{{{}}}</answer>", "\\boxed{{{}")


@pytest.mark.parametrize("profile", ["d1", "strict"])
@pytest.mark.parametrize("name", list(REFERENCES))
def test_long_texts_are_scored_in_time(name, profile):
    task = task_of(name, template="chat", profile=profile)
    item = task.saved.item(*REFERENCES[name])
    for unit in UNITS:
        for wrapper in WRAPPERS:
            text = wrapper.format(unit * (SIZE // len(unit)))
            start = time.process_time()
            score = task.score(item, text)
            assert time.process_time() - start < 1, (unit, wrapper)
            assert score[task.saved.accuracy] < 1, (unit, wrapper)


@pytest.mark.parametrize("profile", ["d1", "strict"])
@pytest.mark.parametrize("name", list(REFERENCES))
@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "(((9^{200})^{200})^{200})^{200}",
        "\\frac{1}{" * 60 + "1" + "}" * 60,
        "\\sqrt[9999999]{2}",
        "\\sqrt[-1]{0}",
        "9^{-9^9^9}",
        "1/0",
        "\\frac{1}{0}",
        "__import__('os').getcwd()",
        "{" * 390,
        "(" * 390 + "1" + ")" * 390,
        "9" * 5000,
        "1e999999999",
        "\ud800",
        "x" * 390,
        "x^{99}" * 60,
        "(9^{99})" * 50,
        "~" * 390 + "in",
        "1" + " " * 390 + "c",
        "1,000" * 70,
    ],
)
def test_short_texts_are_scored_in_time(name, profile, text):
    task = task_of(name, template="chat", profile=profile)
    item = task.saved.item(*REFERENCES[name])
    start = time.process_time()
    for wrapper in WRAPPERS:
        assert task.score(item, wrapper.format(text))[task.saved.accuracy] < 1
    assert time.process_time() - start < 1
