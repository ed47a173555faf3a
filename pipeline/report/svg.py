"""Drawing: panels as SVG, in colours that a dark page replaces, with labels beside the curves."""

import io
import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import fmean
from typing import NamedTuple

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

INK, FAINT, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
SERIES = {
    "#0a5fc2": "#58a6ff",
    "#b34700": "#ffa657",
    "#18742f": "#3fb950",
    "#7a3fd0": "#bc8cff",
    "#c21f2b": "#ff7b72",
    "#0b6b7f": "#39c5cf",
    "#b02a7c": "#f778ba",
    "#7d5600": "#d4a72c",
    "#4c5661": "#9aa4af",
    "#163f86": "#a5d6ff",
}
"""Colour of a curve on white -> on a dark page. As text, each has a contrast of more than 4.5 : 1."""
DARK = {INK: "#e6edf3", FAINT: "#9aa4af", GRID: "#30363d", PAPER: "#0d1117", **SERIES}
LABEL, LONGEST = 8, 40
"""Points of the labels beside the curves, and how many characters of a name they show."""

matplotlib.rc("svg", fonttype="none")
matplotlib.rc("font", size=9, family="sans-serif")
matplotlib.rc("text", color=INK)
matplotlib.rc("axes", grid=True, axisbelow=True, edgecolor=FAINT, labelcolor=INK, linewidth=0.8)
matplotlib.rc("axes.spines", top=False, right=False)
matplotlib.rc("grid", color=GRID, linewidth=0.6)
matplotlib.rc("xtick", color=FAINT)
matplotlib.rc("ytick", color=FAINT)

Draw = Callable[[Axes], None]


class Label(NamedTuple):
    """The name of a curve, to be written beside its last point; x is NaN for a line across the whole plot."""

    x: float
    y: float
    text: str
    color: str


class Panel(NamedTuple):
    """One plot: its title, for those who cannot see it too, and a function that draws it."""

    title: str
    draw: Draw


def colors(count: int) -> list[str]:
    """The colours of `count` curves; they repeat from the eleventh on."""
    return list(islice(cycle(SERIES), count))


def beside(panels: Sequence[Panel], *, width: float = 4.6, height: float = 2.8, columns: int = 0) -> Markup:
    """Panels in one SVG, in rows of `columns` (0: all in one row); the size of each in inches."""
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure = Figure((width * columns, height * rows), layout="constrained")
    figure.patch.set_alpha(0)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, panel in zip(grid.flat, panels, strict=False):
        axis.set_axis_on()
        axis.patch.set_alpha(0)
        panel.draw(axis)
    return _svg(figure, "; ".join(panel.title for panel in panels))


def rounds_and_percent(axis: Axes, name: str, *, rounds: bool = True) -> None:
    """Whole numbers for rounds, percent for accuracies; the axes named by what they show."""
    if rounds:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("round")
    else:
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if name.endswith("accuracy"):
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axis.set_ylim(0, 1.03)


def logarithmic(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers: 1, 2, 5, 10, …, or powers of ten over more than three of them."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def label_ends(axis: Axes, labels: Sequence[Label]) -> None:
    """Write the names of curves beside their ends, one above the other where the ends are close. Call it last."""
    right, _ = axis.get_xlim()[1], axis.get_ylim()  # sets the limits, if they are still to be found from the data
    labels = [label if label.x == label.x else label._replace(x=right) for label in labels]
    height = axis.bbox.height * 72 / matplotlib.rcParams["figure.dpi"]
    to_axes = axis.transData + axis.transAxes.inverted()
    wanted = [float(to_axes.transform((label.x, label.y))[1]) for label in labels]
    for label, place in zip(labels, spread(wanted, 1.25 * LABEL / height), strict=True):
        axis.annotate(
            label.text if len(label.text) <= LONGEST else f"{label.text[: LONGEST - 1]}…",
            (label.x, label.y),
            (1.06, place),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.5, "relpos": (0, 0.5)},
            color=label.color,
            fontsize=LABEL,
            va="center",
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """The places nearest to the wanted ones in the sense of least squares that keep their order and are at least `gap`
    apart, between 0 and 1 as far as there is room: isotonic regression by pooling adjacent violators."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    pools: list[list[float]] = []
    for number, index in enumerate(order):
        pools.append([wanted[index] - number * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    highest = max(0.0, 1 - gap * (len(wanted) - 1))
    shifted = [min(max(fmean(pool), 0.0), highest) for pool in pools for _ in pool]
    places = [place + number * gap for number, place in enumerate(shifted)]
    return [places[order.index(index)] for index in range(len(wanted))]


def dark_rules(selector: str) -> str:
    """CSS that gives the SVGs under `selector` the colours of a dark page; theirs stand in `style` attributes."""
    rules = [
        f'{selector} [style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    return "\n".join(rules)


def standalone(svg: str) -> str:
    """An SVG file of its own that follows the reader's colour scheme, on paper of its own."""
    style = f"svg{{background:{PAPER}}}\n@media (prefers-color-scheme: dark){{\nsvg{{background:{DARK[PAPER]}}}\n"
    head, opening, rest = svg.partition(">")
    return f"{head}{opening}\n<style>\n{style}{dark_rules('svg')}\n}}\n</style>{rest}"


def _svg(figure: Figure, title: str) -> Markup:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # names of parts, which are not unique in a page
    # CSS does not reach into copies of a marker, but they take over the style of the `use` that copies them.
    svg = re.sub(r'(<path id="m[^"]*" d="[^"]*") style="[^"]*"', r"\1", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
