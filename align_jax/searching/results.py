"""Answers as HTML and as JSON."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from align_jax.reporting.text import visible
from align_jax.searching.engine import Answer, Hit

# Gradio takes HTML for a template, of JavaScript's and of Handlebars' kind, before a browser reads it.
PLAIN = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "@": "&#64;", "`": "&#96;", "\\": "&#92;"})


def page(hits: Sequence[Hit], thumbnails: Sequence[str], *, lead: str, facts: Sequence[str], notes: Sequence[str] = (),
         scores: bool = True) -> str:  # fmt: skip
    """The pictures with their captions and, unless they answer no query, `scores`."""
    cards = [
        {
            "id": hit.id, "caption": next((text for text in hit.captions if text.strip()), ""),
            "captions": hit.captions, "label": hit.label, "thumbnail": Markup(thumbnail),
            "score": hit.score if scores else None, "share": round(100 * min(max(hit.score, 0), 1), 1),
        }
        for hit, thumbnail in zip(hits, thumbnails, strict=True)
    ]  # fmt: skip
    return _rendered("results.html", error="", lead=lead, facts=facts, notes=notes, cards=cards)


def message(text: str) -> str:
    """What keeps a query from an answer."""
    return _rendered("results.html", error=text)


def as_json(answer: Answer) -> dict[str, Any]:
    """{"results": [{"id", "row", "score", "captions", "class"}], "milliseconds", "notes"}."""
    return {
        "results": [
            {"id": hit.id, "row": hit.row, "score": hit.score, "captions": list(hit.captions), "class": hit.label}
            for hit in answer.hits
        ],
        "milliseconds": answer.milliseconds,
        "notes": answer.notes,
    }


def heading(title: str, size: str) -> str:
    """The head of the page."""
    return _rendered("heading.html", title=title, size=size)


def api() -> str:
    """How a program asks."""
    return _rendered("api.html")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=visible,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _rendered(name: str, **facts: Any) -> str:
    return _environment().get_template(name).render(facts).translate(PLAIN)
