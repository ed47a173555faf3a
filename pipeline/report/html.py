"""The reports as HTML: `templates/NAME.html.j2`, each on the frame of `templates/page.html.j2`."""

from pathlib import Path
from typing import Any

import jinja2


def page(name: str, **values: Any) -> str:
    """The page of a stage; text in `values` is escaped unless it is `Markup`, a name that the page lacks an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(f"{name}.html.j2").render(**values)
