"""What is shown of a collection and of answers, as HTML, and answers as JSON."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from align_jax.reporting.text import visible
from align_jax.searching.engine import Answer, Engine, Hit
from align_jax.searching.thumbnails import Thumbnails

EXAMPLES, SHORT = 6, 40  # captions that are offered as queries, and how many characters they have at most
SHOWN = 24  # pictures that are shown before anything is asked


class Pages:
    """What the page shows of an engine's collection and of its answers, as HTML."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._thumbnails = Thumbnails(engine.collection.source)
        collection = engine.collection
        places = np.random.default_rng(0).permutation(len(collection))[: 4 * SHOWN].tolist()
        self._some = [(int(collection.rows[place]), collection.about(place)) for place in places]

    def heading(self, title: str) -> str:
        """The head of the page: how many pictures there are, and which are left out."""
        out = self._engine.collection.left_out()
        size = f"{len(self._engine.collection):,} pictures{f'; left out: {out}' if out else ''}"
        return _rendered("heading.html", title=title, size=size)

    def nothing_asked(self) -> str:
        """Some of the pictures, always the same."""
        hits = [Hit(row, record.id, 0.0, record.texts, "") for row, record in self._some[:SHOWN]]
        return self._pictures(hits, lead="Some of the pictures", facts=[], scores=False)

    def answer(self, answer: Answer) -> str:
        """The pictures that were found, with their scores."""
        count = len(answer.hits)
        lead = f"{count:,} picture{'' if count == 1 else 's'}" if count else "No picture scores that high"
        facts = [f"{sum(answer.milliseconds.values()):.0f} ms"]
        return self._pictures(answer.hits, lead=lead, facts=facts, notes=answer.notes)

    def examples(self) -> list[str]:
        """Short captions of the collection, to begin with."""
        first = (text.strip() for _, record in self._some for text in record.texts[:1])
        return list(dict.fromkeys(text for text in first if 0 < len(text) <= SHORT and text.isprintable()))[:EXAMPLES]

    def _pictures(
        self, hits: Sequence[Hit], *, lead: str, facts: Sequence[str], notes: Sequence[str] = (), scores: bool = True
    ) -> str:
        cards = [
            {
                "id": hit.id, "caption": next((text for text in hit.captions if text.strip()), ""),
                "captions": hit.captions, "label": hit.label, "thumbnail": Markup(thumbnail),
                "score": hit.score if scores else None, "match": hit.match,
                "share": round(100 * min(max(hit.score, 0), 1), 1),
            }
            for hit, thumbnail in zip(hits, self._thumbnails([hit.row for hit in hits]), strict=True)
        ]  # fmt: skip
        facts = [*facts, self._engine.index.described()]
        return _rendered("results.html", error="", lead=lead, facts=facts, notes=notes, cards=cards)


def message(text: str) -> str:
    """What keeps a query from an answer."""
    return _rendered("results.html", error=text)


def as_json(answer: Answer) -> dict[str, Any]:
    """{"results": [{"id", "row", "score", "captions", "class"}], "milliseconds", "notes"}; "match" where re-ranked."""
    return {
        "results": [
            {"id": hit.id, "row": hit.row, "score": hit.score, "captions": list(hit.captions), "class": hit.label}
            | ({} if hit.match is None else {"match": hit.match})
            for hit in answer.hits
        ],
        "milliseconds": answer.milliseconds,
        "notes": answer.notes,
    }


def api(address: str) -> str:
    """How a program asks the page of an address."""
    return _rendered("api.html", address=address)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=visible,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _rendered(name: str, **facts: Any) -> str:
    return _environment().get_template(name).render(facts)
