"""Renders the HTML reports: `templates/NAME.html.j2`, each of which extends `templates/page.html.j2`."""

from pathlib import Path

import jinja2


def page(name: str, **values: object) -> str:
    """The HTML of a template. Text in `values` is escaped unless it is `Markup`; a missing value is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(f"{name}.html.j2").render(**values)
