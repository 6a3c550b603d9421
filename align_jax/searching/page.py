"""The page on 127.0.0.1, made with Gradio: a field to search with, and the pictures that are found."""

import importlib
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from align_jax.searching.blocks import AT_ONCE, UPLOAD, blocks
from align_jax.searching.engine import Engine
from align_jax.searching.guard import Guard
from align_jax.types import AlignError

HOST = "127.0.0.1"
WAITING = 64  # queries that may wait; a further one is told to come again
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
PLAIN_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")


def check(port: int) -> None:
    """What would keep the page from being opened, told before a collection is embedded; `port` 0 is any free one."""
    if importlib.util.find_spec("gradio") is None:
        raise AlignError('expected gradio, found it not installed; run: pip install -e ".[search]"')
    _free(port)


def serve(engine: Engine, *, title: str, port: int, browser: bool) -> None:
    """Opens the page and waits until it is told to end (Ctrl-C, SIGTERM)."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="align_jax_search_") as uploads:
        # Gradio reads these when it is imported: no word to its makers, no look at other machines.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": uploads}
        gradio = importlib.import_module("gradio")
        middleware = importlib.import_module("starlette.middleware").Middleware(Guard, upload=UPLOAD)
        port = _free(port)
        page = blocks(gradio, engine, title, address=f"http://{HOST}:{port}", uploads=Path(uploads))
        page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
        _, address, _ = page.launch(
            server_name=HOST, server_port=port, share=False, inbrowser=browser, prevent_thread_lock=True,
            quiet=True, allowed_paths=[], max_file_size=UPLOAD, footer_links=[], run_history=False,
            enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
            app_kwargs={"middleware": [middleware]}, theme=_theme(gradio),
            css_paths=Path(__file__).with_name("page.css"),
        )  # fmt: skip
        print(f"{address} (Ctrl-C ends it)", flush=True)
        ended.wait()
        page.close(verbose=False)


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
