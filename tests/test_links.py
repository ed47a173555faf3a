"""Relative links in all Markdown pages lead to existing files and headings, and paths in code type exist."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

TRACKED = subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
NAMED = re.compile(r"`((?:pipeline|tests|docs|benchmarks|examples|profiles)/[\w./-]*)`")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings: lower case, punctuation dropped, spaces as hyphens."""
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in HEADING.findall(FENCE.sub("", text))]
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {slug if (n := slugs[:i].count(slug)) == 0 else f"{slug}-{n}" for i, slug in enumerate(slugs)}


def broken(page: Path) -> list[str]:
    """The relative links and named paths of a page that lead nowhere."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = [path for path in NAMED.findall(text) if not (ROOT / path).exists()]
    for link in LINK.findall(CODE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", TRACKED)
def test_links_lead_somewhere(page):
    assert broken(ROOT / page) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading, with `code`\n")
    (tmp_path / "page.md").write_text(
        "# Here\n[a](other.md) [b](other.md#a-heading-with-code) [c](#here) [d](https://example.org/x) `[e](none.md)`\n"
        "[f](missing.md) [g](other.md#missing) [h](#missing) `pipeline/missing.py` `pipeline/plugins.py`\n"
        "```\n# not a heading\n[i](missing.md)\n```\n[j](#not-a-heading)\n"
    )
    assert broken(tmp_path / "page.md") == [
        "pipeline/missing.py",
        "missing.md",
        "other.md#missing",
        "#missing",
        "#not-a-heading",
    ]
