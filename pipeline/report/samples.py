"""The answers that a report shows: beside the prompt and the reference, failures first.

If the task renders prompt and reference in the same shape (as many characters in each line), they are laid over each
other: where they agree the prompt gives the character, and an answer is marked where it differs from the reference.
A task may mark characters of its own (`Task.marks`), whatever their shape.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

from pipeline.report.json_types import Evaluation, Sampled
from pipeline.report.tables import without_error
from pipeline.settings.sections import judged_by

SHORT, LONG_PROMPT, MOST_LINES, WIDE, NARROW = 120, 600, 12, 24, 48
"""Longer answers and prompts are folded, unless their lines are narrow, and so are those of more lines. Renderings that
are laid over each other are stacked if a line has more than `WIDE` characters."""
TAG = re.compile(r"</?\w+>")
LOOKS = ("underlined", "coloured", "framed")
"""How the marks of a task look, in the order in which it names them."""
Text = list[tuple[str, str]]
"""Pieces of a text with their marks, separated by spaces: given, wrong or, where the prompt is blank, blank; and those
of the task, by their looks."""

Key = Literal["puzzle", "reference", "answer"]
Splits = Mapping[str, Mapping[str, Evaluation]]
"""Split -> sampler -> evaluation."""


class Shown(NamedTuple):
    """A text of a sample: the prompt, the reference or an answer. `preview` is set if it is to be folded."""

    title: str
    text: Text
    verdict: str = ""
    metrics: str = ""
    preview: str = ""


class Sample(NamedTuple):
    """An item with its answers. `layout` is grids, stacked or prose; `failed` whether an accuracy is below 1."""

    title: str
    failed: bool
    layout: str
    texts: list[Shown]


def legend(last: Splits, sampler: str) -> list[tuple[str, str]]:
    """The name and the look of each mark of the task; [] if it has none."""
    texts = [
        marks
        for samplers in last.values()
        for sample in samplers[sampler]["samples"]
        for marks in sample.get("marks", {}).values()
    ]
    return list(zip(dict.fromkeys(name for marks in texts for name in marks), LOOKS, strict=False))


def shared_wording(last: Splits, sampler: str) -> tuple[str, str]:
    """What the prompts of all samples begin and end with, in whole lines; "" where they have nothing in common, and
    for a single prompt."""
    prompts = {sample["puzzle"] for samplers in last.values() for sample in samplers[sampler]["samples"]}
    if len(prompts) < 2:
        return "", ""
    lines = [prompt.splitlines(keepends=True) for prompt in prompts]
    begin = _equal(lines)
    end = _equal([own[begin:][::-1] for own in lines])
    return "".join(lines[0][:begin]), "".join(lines[0][len(lines[0]) - end :])


def _equal(lines: Sequence[Sequence[str]]) -> int:
    """How many of the first lines are the same everywhere; one line at least is left over."""
    shortest = min(map(len, lines)) - 1
    same = (len(set(column)) == 1 for column in zip(*lines, strict=False))
    return max(0, min(shortest, next((number for number, equal in enumerate(same) if not equal), shortest)))


def samples_of(base: Splits, last: Splits, sampler: str, names: Sequence[str]) -> list[Sample]:
    """The samples of the last policy on the test split and its failures on the others, with the base's answers to the
    same items. Failures come first, the worst before the others.

    Args:
        sampler: with which the policy decodes; the base decodes with the one that runs are judged by.
        names: the metrics to show, the headline metric last.
    """
    found, shared = [], shared_wording(last, sampler)
    for split, samplers in last.items():
        of_base = {sample["item"]: sample for sample in base[split][judged_by(base[split])]["samples"]}
        samples = samplers[sampler]["samples"]
        for sample in sorted(samples, key=lambda sample: [sample["metrics"][name] for name in reversed(names)]):
            shown = _sample(split, of_base.get(sample["item"]), sample, names, shared)
            found += [shown] if split == "test" or shown.failed else []
    return sorted(found, key=lambda sample: not sample.failed)


def _sample(split: str, base: Sampled | None, last: Sampled, names: Sequence[str], shared: tuple[str, str]) -> Sample:
    puzzle, reference = last["puzzle"], last["reference"]
    aligned = _shape(puzzle) == _shape(reference)
    layout = _layout(puzzle, last["answer"], aligned=aligned)
    if layout == "prose":
        begin, end = shared
        own = puzzle[len(begin) : len(puzzle) - len(end)].strip("\n")
        puzzle = f"{'… ' * bool(begin)}{own}{' …' * bool(end)}"

    def marked(sample: Sampled, key: Key, *, errors: bool = False) -> Text:
        text = sample[key]
        own = _of_prompt(text, puzzle, reference, errors=errors) if aligned else [""] * len(text)
        return _pieces(text, own, sample.get("marks", {}).get(key, {}))

    def answer(title: str, sample: Sampled) -> Shown:
        metrics = sample["metrics"]
        judged, right = names[-1].endswith("accuracy"), metrics[names[-1]] == 1
        both = dict.fromkeys(["reward", *names]) if "reward" in metrics else names
        values = ", ".join(f"{name.replace('_', ' ')} {without_error(name, metrics[name])}" for name in both)
        verdict = ("right" if right else "wrong") if judged else ""
        text = marked(sample, "answer", errors=judged and not right)
        return Shown(title, text, verdict, values, preview(sample["answer"], SHORT))

    def preview(text: str, most: int) -> str:
        return "" if aligned else _preview(text, most)

    prompt = [(puzzle, "")] if layout == "prose" else marked(last, "puzzle")
    texts = [Shown("prompt", prompt, preview=preview(puzzle, LONG_PROMPT))] if puzzle.strip() else []
    if reference.strip():
        texts.append(Shown("reference", marked(last, "reference"), preview=preview(reference, SHORT)))
    texts += [answer("base", base)] if base else []
    group = f" ({last['group']})" if last["group"] else ""
    title = f"{'' if split == 'test' else f'{split}, '}prompt {last['item'] + 1}{group}"
    failed = names[-1].endswith("accuracy") and last["metrics"][names[-1]] < 1
    return Sample(title, failed, layout, [*texts, answer("policy", last)])


def _layout(puzzle: str, answer: str, *, aligned: bool) -> str:
    """See `Sample`; `aligned`: prompt and reference have one shape."""
    lines = puzzle.splitlines()
    if aligned and (len(lines) == 1 or max(map(len, lines), default=0) > WIDE):
        return "stacked"
    narrow = "\n" in puzzle and _narrow(puzzle) and _narrow(answer)
    return "grids" if aligned or narrow else "prose"


def _narrow(text: str) -> bool:
    return all(len(line) <= NARROW for line in text.splitlines())


def _shape(text: str) -> list[int]:
    return [len(text), *map(len, text.splitlines())]


def _of_prompt(text: str, puzzle: str, reference: str, *, errors: bool) -> list[str]:
    """The mark of each character of a text that is laid over the prompt; none if it has another shape."""
    if _shape(text) != _shape(puzzle):
        return [""] * len(text)
    marks = []
    for character, given, right in zip(text, puzzle, reference, strict=True):
        mark = "blank" if given != right else "given" if given.strip() else ""
        marks.append("wrong" if errors and character != right else mark)
    return marks


def _pieces(text: str, own: Sequence[str], of_task: Mapping[str, Sequence[int]]) -> Text:
    """Neighbours with equal marks together. `own` has one mark for each character, `of_task` places by name."""
    chosen = list(zip(LOOKS, map(set, of_task.values()), strict=False))
    marks = [
        " ".join(filter(None, [mark, *(look for look, places in chosen if at in places)]))
        for at, mark in enumerate(own)
    ]
    together = groupby(zip(text, marks, strict=True), key=itemgetter(1))
    return [("".join(character for character, _ in group), mark) for mark, group in together]


def _preview(text: str, most: int) -> str:
    """The end of a text of more than `most` characters, where its result stands; "" for a shorter one."""
    lines = [line for line in text.splitlines() if line.strip()]
    if (len(text) <= most or _narrow(text)) and len(lines) <= MOST_LINES:
        return ""
    lines = [line for line in lines if not TAG.fullmatch(line.strip())] or lines
    return f"… {lines[-1].strip()[-80:]}" if lines else ""
