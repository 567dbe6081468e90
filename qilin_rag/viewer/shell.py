"""Make the HTML around a page of the view: head, links between the pages, and the script that fills it."""

from __future__ import annotations

import functools
from importlib.resources import files

import jinja2
from markupsafe import Markup

_VIEWS = (
    ("/", "Runs"),
    ("/board", "Leaderboard"),
    ("/compare", "Compare"),
    ("/ablation", "Ablation"),
    ("/rankings", "Rankings"),
)


def shell(title: str, script: str, body: str, here: str | None = None) -> str:
    """Return a page.

    Args:
        title: The title of the window.
        script: The name of the module that fills the page.
        body: The markup of the page, written by us: nothing of a run is in it.
        here: The path of this page among the links; None leaves the links out.
    """
    return _template().render(
        title=title,
        script=script,
        body=Markup(body),
        here=here,
        views=_VIEWS if here is not None else (),
    )


def markup(name: str, package: str = "qilin_rag.viewer") -> str:
    """Return a file of markup.

    Args:
        name: The name of the file in the folder `page`.
        package: The package that it is in.
    """
    return (files(package) / "page" / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(markup("shell.html.j2"))
