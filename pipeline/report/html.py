"""Renders the HTML reports: `templates/NAME.html.j2`, each of which extends `templates/page.html.j2`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline.report.svg import Panel, beside, dark_rules


def page(name: str, **values: object) -> str:
    """The HTML of a template. Text in `values` is escaped unless it is `Markup`; a missing value is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals["dark_rules"] = lambda selector: Markup(dark_rules(selector))
    return environment.get_template(f"{name}.html.j2").render(**values)


def rendered(figures: Mapping[str, Sequence[Panel]]) -> dict[str, list[tuple[str, Markup]]]:
    """Name -> the title and the SVG of each panel, as templates show them."""
    return {name: [(panel.title, beside([panel])) for panel in panels] for name, panels in figures.items()}
