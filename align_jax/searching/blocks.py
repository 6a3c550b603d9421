"""The fields of the page and what they do, in Gradio's terms."""

import os
import stat
from pathlib import Path
from typing import Any

from align_jax.searching import results
from align_jax.searching.engine import LONGEST, MOST, Engine, Query
from align_jax.searching.results import Pages
from align_jax.types import AlignError

UPLOAD = 20 << 20  # bytes of an uploaded picture; its pixels are bounded by data/images.py
AT_ONCE = 2  # queries that are answered at a time
FORGOTTEN = (600, 3600)  # seconds between two looks for old uploads, and from when on they are old
FIELDS = ("text", "without", "image", "text_weight", "without_weight", "image_weight", "count", "min_score", "label")


def blocks(gradio: Any, engine: Engine, title: str, *, address: str, uploads: Path) -> Any:
    """The page, and the API of the same: `/search`.

    `address` is that of the page, for those who read it; no picture is read that lies outside of `uploads`.
    """
    pages = Pages(engine)

    def found(*values: Any) -> str:
        try:
            query = _query(uploads, *values)
            if not query.text and not query.without and query.image is None:
                return pages.nothing_asked()
            return pages.answer(engine.search(query))
        except AlignError as error:
            return results.message(str(error))

    # The API has these names. What a client leaves out has the value of the page's field, or else the None of here.
    def search(
        text: Any = None, without: Any = None, image: Any = None, text_weight: Any = None, without_weight: Any = None,
        image_weight: Any = None, count: Any = None, min_score: Any = None, label: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        values = (text, without, image, text_weight, without_weight, image_weight, count, min_score, label)
        try:
            return results.as_json(engine.search(_query(uploads, *values)))
        except AlignError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=FORGOTTEN, fill_width=True) as page:
        gradio.HTML(pages.heading(title), js_on_load=None)
        with gradio.Row(elem_id="query", equal_height=True):
            with gradio.Column(scale=5, min_width=320):
                text, go = _ask(gradio)
                with gradio.Row(elem_id="examples"):
                    chips = [(gradio.Button(text, size="sm", min_width=40), text) for text in pages.examples()]
                without, *numbers, label = _settings(gradio, engine)
            image = gradio.Image(
                label="Picture", sources=["upload", "clipboard"], type="filepath", elem_id="picture", scale=1,
                min_width=200, height=210, buttons=[], placeholder="Drop a picture\nor click to choose one",
            )  # fmt: skip
        shown = gradio.HTML(pages.nothing_asked(), js_on_load=None)
        gradio.HTML(results.api(address), js_on_load=None)
        fields = [text, without, image, *numbers, label]
        # `preprocess=False`: Gradio would have Pillow open an upload, which only our decoder may.
        given: dict[str, Any] = {"preprocess": False, "concurrency_id": "search", "concurrency_limit": AT_ONCE}
        shared = given | {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
        triggers = [text.submit, without.submit, go.click, image.upload, image.clear, label.input]
        gradio.on([*triggers, *(number.submit for number in numbers)], found, fields, shown, **shared)
        for chip, example in chips:
            chosen = chip.click(lambda example=example: example, None, text, api_visibility="private", queue=False)
            chosen.then(found, fields, shown, **shared)
        called = gradio.Button(visible=False)  # by nobody but the API
        called.click(search, fields, gradio.JSON(visible=False), api_name="search", **given)
    return page


def _ask(gradio: Any) -> tuple[Any, Any]:
    """The field to search with, and its button."""
    with gradio.Row(elem_id="ask", equal_height=True):
        text = gradio.Textbox(
            show_label=False, label="Text", placeholder="What do you look for?", autofocus=True, max_length=LONGEST,
            max_lines=1, scale=8, min_width=120, elem_id="text", container=False,
        )  # fmt: skip
        return text, gradio.Button("Search", variant="primary", scale=1, min_width=96, elem_id="go")


def _settings(gradio: Any, engine: Engine) -> list[Any]:
    """The text to take away, three weights, the number of pictures, the least score and the class."""
    numbers = (
        ("Text weight", Query.text_weight, 0, 10, 0.5), ("Without weight", Query.without_weight, 0, 10, 0.5),
        ("Picture weight", Query.image_weight, 0, 10, 0.5), ("Pictures", Query.count, 1, MOST, 1),
        ("Least score", Query.min_score, -1, 1, 0.05),
    )  # fmt: skip
    with gradio.Row(elem_id="weights"):
        return [
            gradio.Textbox(
                label="Without", placeholder="a text to take away", max_length=LONGEST, max_lines=1,
                elem_id="without", min_width=180,
            ),
            *(
                gradio.Number(value, label=name, minimum=least, maximum=most, step=step, min_width=90)
                for name, value, least, most, step in numbers
            ),
            gradio.Dropdown(
                [("all", ""), *((name, name) for name in engine.classes)], value="", label="Class", min_width=140,
                visible=bool(engine.classes),
            ),
        ]  # fmt: skip


def _query(uploads: Path, *values: Any) -> Query:
    """The values of the fields in `FIELDS`' order, as a client sent them; `Engine.search` checks them."""
    given: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
    for name in ("text", "without", "label"):
        given[name] = given[name] or ""
    given["image"] = _uploaded(uploads, given["image"])
    return Query(**given)


def _uploaded(uploads: Path, image: Any) -> bytes | None:
    """The bytes of an upload.

    Gradio checks the path of a dict with `meta` alone, so a client may name any file here. What it may not read and
    what is not there have one message: it says nothing of the files of this machine.
    """
    if image is None:
        return None
    gone = AlignError("This upload is gone; choose the picture again.")
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str):
        raise gone
    try:
        found = Path(os.path.realpath(path, strict=True))
        if not found.is_relative_to(uploads.resolve()) or not stat.S_ISREG((facts := found.stat()).st_mode):
            raise gone
        if facts.st_size > UPLOAD:
            raise AlignError(f"Expected a picture of at most {UPLOAD >> 20} MB, found {facts.st_size:,} bytes.")
        return found.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL, or with half a surrogate pair
        raise gone from error
