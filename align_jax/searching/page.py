"""The page on 127.0.0.1, made with Gradio: a field to search with, and the pictures that are found."""

import importlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.data.source import Record
from align_jax.searching import results
from align_jax.searching.engine import LONGEST, MOST, Answer, Engine, Hit, Query
from align_jax.searching.guard import Guard
from align_jax.searching.thumbnails import Thumbnails
from align_jax.types import AlignError

HOST = "127.0.0.1"
UPLOAD = 20 << 20  # bytes of an uploaded picture; its pixels are bounded by data/images.py
AT_ONCE = 2  # queries that are answered at a time
WAITING = 64  # queries that may wait; a further one is told to come again
EXAMPLES, SHORT = 6, 40  # captions that are offered as queries, and how many characters they have at most
SHOWN = 24  # pictures that are shown before anything is asked
FORGOTTEN = (600, 3600)  # seconds between two looks for old uploads, and from when on they are old
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
PLAIN_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")
FIELDS = ("text", "without", "image", "text_weight", "without_weight", "image_weight", "count", "min_score", "label")


def serve(engine: Engine, *, title: str, port: int, browser: bool) -> None:
    """Opens the page and waits until it is told to end (Ctrl-C, SIGTERM); `port` 0 takes any that is free."""
    port = _free(port)
    with _gradio() as gradio:
        blocks = _blocks(gradio, engine, title)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        middleware = importlib.import_module("starlette.middleware").Middleware(Guard, upload=UPLOAD)
        blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
        _, address, _ = blocks.launch(
            server_name=HOST, server_port=port, share=False, inbrowser=browser, prevent_thread_lock=True, quiet=True,
            allowed_paths=[], max_file_size=UPLOAD, footer_links=[], run_history=False, enable_monitoring=False,
            ssr_mode=False, pwa=False, mcp_server=False, app_kwargs={"middleware": [middleware]},
            theme=_theme(gradio), css_paths=Path(__file__).with_name("page.css"),
        )  # fmt: skip
        print(f"{address} (Ctrl-C ends it)", flush=True)
        ended.wait()
        blocks.close(verbose=False)


@contextmanager
def _gradio() -> Iterator[Any]:
    """The library, with a folder of its own for uploads; AlignError where it is not installed."""
    with tempfile.TemporaryDirectory(prefix="align_jax_search_") as uploads:
        # Read when it is imported: no word to its makers, no look at other machines.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": uploads}
        try:
            gradio = importlib.import_module("gradio")
        except ImportError as error:
            raise AlignError('expected gradio, found it not installed; run: pip install -e ".[search]"') from error
        yield gradio


def _free(port: int) -> int:
    """The port, or any for 0; AlignError where another program has it."""
    try:
        with socket.create_server((HOST, port)) as found:
            return found.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise AlignError(f"--port: expected a free port, found {port}: {error}; give another, or 0 for any") from error


def _theme(gradio: Any) -> Any:
    """Without fonts from elsewhere."""
    return gradio.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=FONTS, font_mono=PLAIN_FONTS
    )


def _blocks(gradio: Any, engine: Engine, title: str) -> Any:
    """The page and the API, both by the same functions."""
    thumbnails = Thumbnails(engine.collection.source)
    some = _some(engine)

    def found(*values: Any) -> str:
        return _page(engine, thumbnails, *values)

    # The API has its names; without a value of their own, its fields have those of the page, but for a default of None.
    def search(
        text: Any = None, without: Any = None, image: Any = None, text_weight: Any = None, without_weight: Any = None,
        image_weight: Any = None, count: Any = None, min_score: Any = None, label: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        values = (text, without, image, text_weight, without_weight, image_weight, count, min_score, label)
        try:
            return results.as_json(engine.search(_query(*values)))
        except AlignError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=FORGOTTEN, fill_width=True) as blocks:
        gradio.HTML(results.heading(title, _size(engine)), js_on_load=None)
        with gradio.Row(elem_id="query", equal_height=True):
            with gradio.Column(scale=5, min_width=320):
                with gradio.Row(elem_id="ask", equal_height=True):
                    text = gradio.Textbox(
                        show_label=False, label="Text", placeholder="What do you look for?", autofocus=True,
                        max_length=LONGEST, max_lines=1, scale=8, min_width=120, elem_id="text", container=False,
                    )  # fmt: skip
                    go = gradio.Button("Search", variant="primary", scale=1, min_width=96, elem_id="go")
                with gradio.Row(elem_id="examples"):
                    offered = _examples(some)
                    chips = [gradio.Button(example, size="sm", min_width=40) for example in offered]
                with gradio.Row(elem_id="weights"):
                    without = gradio.Textbox(
                        label="Without", placeholder="a text to take away", max_length=LONGEST, max_lines=1,
                        elem_id="without", min_width=180,
                    )  # fmt: skip
                    weights = [
                        gradio.Number(value, label=label, minimum=0, maximum=10, step=0.5, min_width=90)
                        for label, value in (
                            ("Text weight", Query.text_weight), ("Without weight", Query.without_weight),
                            ("Picture weight", Query.image_weight),
                        )
                    ]  # fmt: skip
                    count = gradio.Number(Query.count, label="Pictures", minimum=1, maximum=MOST, step=1, min_width=90)
                    least = gradio.Number(
                        Query.min_score, label="Least score", minimum=-1, maximum=1, step=0.05, min_width=90
                    )
                    label = gradio.Dropdown(
                        [("all", ""), *((name, name) for name in engine.classes)], value="", label="Class",
                        min_width=140, visible=bool(engine.classes),
                    )  # fmt: skip
            image = gradio.Image(
                label="Picture", sources=["upload", "clipboard"], type="filepath", elem_id="picture", scale=1,
                min_width=200, height=210, buttons=[], placeholder="Drop a picture\nor click to choose one",
            )  # fmt: skip
        shown = gradio.HTML(_nothing_asked(engine, thumbnails, some), js_on_load=None, elem_id="found")
        gradio.HTML(results.api(), js_on_load=None)
        fields = [text, without, image, *weights, count, least, label]
        # `preprocess=False`: Gradio would have Pillow open an upload, which only our decoder may.
        given: dict[str, Any] = {"preprocess": False, "concurrency_id": "search", "concurrency_limit": AT_ONCE}
        shared = given | {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
        triggers = [text.submit, without.submit, go.click, image.upload, image.clear, label.input,
                    *(field.submit for field in (*weights, count, least))]  # fmt: skip
        gradio.on(triggers, found, fields, shown, **shared)
        for chip, example in zip(chips, offered, strict=True):
            chosen = chip.click(lambda example=example: example, None, text, api_visibility="private", queue=False)
            chosen.then(found, fields, shown, **shared)
        called = gradio.Button(visible=False)
        called.click(search, fields, gradio.JSON(visible=False), api_name="search", **given)
    return blocks


def _query(*values: Any) -> Query:
    """The values of the fields in `FIELDS`' order, as a client sent them; `Engine.search` checks them."""
    given: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
    for name in ("text", "without", "label"):
        given[name] = given[name] or ""
    given["image"] = _uploaded(given["image"])
    return Query(**given)


def _uploaded(image: Any) -> bytes | None:
    """The bytes of an upload: Gradio has checked that its path is one of its own."""
    if image is None:
        return None
    path = image.get("path") if isinstance(image, dict) else None
    try:
        data = Path(path or "").read_bytes()
    except OSError as error:
        raise AlignError("This upload is gone; choose the picture again.") from error
    if len(data) > UPLOAD:
        raise AlignError(f"Expected a picture of at most {UPLOAD >> 20} MB, found {len(data):,} bytes.")
    return data


def _page(engine: Engine, thumbnails: Thumbnails, *values: Any) -> str:
    """The answer of a query as HTML."""
    try:
        query = _query(*values)
        if not query.text.strip() and not query.without.strip() and query.image is None:
            return _nothing_asked(engine, thumbnails, _some(engine))
        answer = engine.search(query)
    except AlignError as error:
        return results.message(str(error))
    return _answer(engine, thumbnails, answer)


def _answer(engine: Engine, thumbnails: Thumbnails, answer: Answer) -> str:
    count, spent = len(answer.hits), sum(answer.milliseconds.values())
    lead = f"{count:,} picture{'' if count == 1 else 's'}" if count else "No picture scores that high"
    facts = [f"{spent:.0f} ms", engine.index.described()]
    found = thumbnails([hit.row for hit in answer.hits])
    return results.page(answer.hits, found, lead=lead, facts=facts, notes=answer.notes)


def _some(engine: Engine) -> list[tuple[int, Record]]:
    """(row, record) of some pictures, always the same."""
    count = len(engine.collection)
    places = np.random.default_rng(0).permutation(count)[: 4 * SHOWN].tolist()
    return [(int(engine.collection.rows[place]), engine.collection.about(place)) for place in places]


def _nothing_asked(engine: Engine, thumbnails: Thumbnails, some: Sequence[tuple[int, Record]]) -> str:
    hits = [Hit(row, record.id, 0.0, record.texts, "") for row, record in some[:SHOWN]]
    facts = [engine.index.described()]
    return results.page(
        hits, thumbnails([row for row, _ in some[:SHOWN]]), lead="Some of the pictures", facts=facts, scores=False
    )


def _examples(some: Sequence[tuple[int, Record]]) -> list[str]:
    """Short captions of the collection, to begin with."""
    first = (text.strip() for _, record in some for text in record.texts[:1])
    return list(dict.fromkeys(text for text in first if 0 < len(text) <= SHORT and text.isprintable()))[:EXAMPLES]


def _size(engine: Engine) -> str:
    out = engine.collection.left_out()
    return f"{len(engine.collection):,} pictures{f'; left out: {out}' if out else ''}"
