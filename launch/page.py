"""The HTML pages that people read: what they share lies in page.html and macros.html, beside the pages themselves."""

import base64
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page as one self-contained text: everything shown is escaped, nothing is fetched.

    Args:
        template: name of a template of this package, such as "report.html".
        **values: what the template shows.
    """
    loader = FunctionLoader(lambda name: (files("launch") / name).read_text(encoding="utf-8"))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values)


def data_uri(data: bytes, kind: str) -> str:
    """An encoded picture as an address that holds it.

    Args:
        data: content of the picture file.
        kind: "png" or "jpeg".
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
