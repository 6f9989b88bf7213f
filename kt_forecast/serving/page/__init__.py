"""The pages at ``/`` and ``/docs``: each one document with everything in it."""

import secrets
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kt_forecast.serving.page import docs

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
)
"""Nothing from elsewhere, and no script but the page's own."""


def render_api(api: dict[str, Any], name: str) -> tuple[str, dict[str, str]]:
    """Return the page of the API and the headers that it is sent with.

    Args:
        api: the service's OpenAPI document.
        name: of the model.
    """
    nonce = secrets.token_urlsafe(16)
    text = _template("docs.html.jinja").render(
        name=Path(name).name,
        operations=list(docs.operations(api)),
        schemas=list(docs.schemas(api)),
        nonce=nonce,
        style=Markup(_file("page.css")),  # noqa: S704 - our own file
    )
    return text, _headers(nonce)


def render(model: dict[str, Any], *, tracing: bool) -> tuple[str, dict[str, str]]:
    """Return the page and the headers that it is sent with."""
    nonce = secrets.token_urlsafe(16)
    text = _template("index.html.jinja").render(
        model=model,
        name=Path(model["name"]).name,
        tracing=tracing,
        nonce=nonce,
        style=Markup(_file("page.css")),  # noqa: S704 - our own files
        script=Markup(_file("page.js")),  # noqa: S704
    )
    return text, _headers(nonce)


def _headers(nonce: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": POLICY.format(nonce=nonce),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


@cache
def _template(name: str) -> Any:  # noqa: ANN401
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_file(name))


@cache
def _file(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
