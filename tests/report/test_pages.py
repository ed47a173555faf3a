"""The reports in a real browser: three of them, in windows of two widths and both colour schemes."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.report.html import page
from pipeline.report.run_page import run_page
from pipeline.settings.params_file import parse_params
from pipeline.settings.stages import NoSettings
from pipeline.stages import compare
from tests.report.browser import CHROMIUM, FLAWS, MISSING, Browser
from tests.small_workflow import SMALL, Workflow

HOSTILE = """<script>window.hostile = 1</script><img src=x onerror="window.hostile = 2">"""
CHAT = f"{HOSTILE} ]]> </pre></article> {{{{ 7 * 7 }}}} & \u202e {'long' * 60}"
"""What a model may write."""


@pytest.fixture(scope="module")
def pages(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of the small Sudoku run, of the same run with chat prompts and answers, and of a suite of two seeds and
    another run whose names are not harmless."""
    folder = tmp_path_factory.mktemp("pages")
    metrics = json.loads((finished.run_directory / "metrics.json").read_text())
    run = parse_params(SMALL).runs["small"]
    found = {name: folder / f"{name}.html" for name in ("sudoku", "chat", "suite")}
    found["sudoku"].write_text((finished.run_directory / "report.html").read_text())
    for evaluation in metrics["evaluations"]:
        for samplers in evaluation["splits"].values():
            for sample in samplers["greedy"]["samples"]:
                sample |= {"puzzle": f"How many? {CHAT}", "reference": "12", "answer": f"Think.\n{CHAT}\n" * 9}
                sample["marks"] = {"answer": {HOSTILE: [0, 1], "number": [1, 2], "liability": [2, 3]}}
    found["chat"].write_text(run_page(metrics, run, None, unfinished=HOSTILE))
    names = {"small": "small", "small-seed1": "small", "other": HOSTILE}
    for file, name in names.items():
        (folder / f"{file}.json").write_text(json.dumps(metrics | {"run": file.replace("other", name)}))
    paths = {key: folder / f"suite.{key}" for key in ("markdown", "figure", "html")}
    everything = Namespace(metrics=[folder / f"{file}.json" for file in names], joints=[], estimators=[], published={},
                           out=folder / "suite.json", **paths)  # fmt: skip
    compare.run(everything, NoSettings())
    assert "<script" not in paths["markdown"].read_text()
    return found


def test_a_report_is_one_small_file(pages):
    for path in pages.values():
        text = path.read_text()
        assert len(text) < 300_000
        assert "<script" not in text and 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text


def test_a_template_cannot_forget_to_escape():
    """A value that is missing is an error, not an empty place."""
    with pytest.raises(Exception, match="undefined"):
        page("report")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(MISSING)
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("name", ["sudoku", "chat", "suite"])
def test_pages_are_readable(name, browser, pages, tmp_path):
    """No overflow, no contrast below WCAG's AA, nothing on the console, nothing from the network; also with everything
    unfolded. The screenshots stay in pytest's temporary directory."""
    for width in (1280, 390):
        for dark in (False, True):
            browser.open(pages[name], width=width, dark=dark)
            browser.screenshot(tmp_path / f"{name}-{width}-{'dark' if dark else 'light'}.png")
            browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
            assert browser.evaluate(FLAWS) == []
            assert browser.complaints() == [] and browser.requested() == []
            assert browser.evaluate("window.hostile === undefined && document.querySelector('script, img') === null")
            assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
                "rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)"
            )


def test_flaws_are_found(browser, tmp_path):
    """The check itself: on a page that has each of them."""
    flawed = tmp_path / "flawed.html"
    flawed.write_text(
        "<body><p id=a style='color: #999'>pale</p><p id=a style='width: 900px'>wide</p>"
        "<svg><text y=9 style='fill: #eee'>light</text></svg><script>console.log('loud')</script>"
        "<img src='http://127.0.0.1:9/picture'>"
    )
    browser.open(flawed, width=390, dark=False)
    flaws = "\n".join(browser.evaluate(FLAWS))
    for flaw in ("wider than the window", "id twice: a", 'of "pale"', 'of "light"'):
        assert flaw in flaws
    assert browser.complaints() and browser.requested() == ["http://127.0.0.1:9/picture"]
