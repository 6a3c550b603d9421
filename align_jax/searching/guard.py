"""What stands before the page's server: it answers this machine alone, and fetches nothing from others."""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Names of this machine, with a port or without: a stranger's name that leads here (DNS rebinding) is refused.
HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
ORIGIN = re.compile(rf"https?://{HOST.pattern}", re.IGNORECASE)
LARGEST = 1 << 20  # bytes of a request that uploads nothing
AROUND = 1 << 16  # bytes that stand around an upload
# Scripts of the page are its own; a browser asks no other machine for anything, whatever a caption says.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)  # fmt: skip


class Guard:
    """ASGI middleware around Gradio's application.

    Gradio itself fetches addresses that a client names, `file=http://...` and a file whose path is one; here both are
    refused, as is a request without a length or with too long a one, and one of a page from elsewhere: a browser sends
    its forms, with files too, and only keeps the answer from it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], upload: int):
        """`upload`: bytes of an uploaded file, at most."""
        self._app, self._upload = app, upload

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        headers = dict(scope["headers"])
        refused = self._refused(scope, headers)
        if refused is None and scope["method"] == "POST" and not _is_upload(scope):
            body = await _body(receive)
            refused = _refused_body(body)
            receive = _again(body, receive)
        if refused is None:
            await self._app(scope, receive, guarded)
            return
        status, text = refused
        await guarded({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await guarded({"type": "http.response.body", "body": text.encode()})

    def _refused(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if not HOST.fullmatch(headers.get(b"host", b"").decode("latin-1")):
            return 403, "expected a request to 127.0.0.1"
        if _is_from_elsewhere(scope, headers):
            return 403, "expected a request of this page, or of a program"
        path = unquote(scope["path"])
        _, is_file, name = path.partition("file=")
        if (is_file and "://" in name.replace(":/", "://")) or "proxy=" in path:
            return 403, "nothing is fetched from elsewhere"
        if scope["method"] == "POST":
            length = headers.get(b"content-length", b"")
            limit = self._upload + AROUND if _is_upload(scope) else LARGEST
            if not length.isdigit():
                return 411, "expected a length"
            if int(length) > limit:
                return 413, f"expected at most {limit:,} bytes"
        return None


def _is_from_elsewhere(scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> bool:
    """Whether a page of another site asks, by what its browser says; a link to this page is no such thing."""
    origin = headers.get(b"origin")
    if origin is not None and not ORIGIN.fullmatch(origin.decode("latin-1")):
        return True
    kind = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
    is_link = scope["method"] == "GET" and scope["path"] == "/" and kind == (b"navigate", b"document")
    return headers.get(b"sec-fetch-site") == b"cross-site" and not is_link


def _is_upload(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"].rstrip("/").endswith("/upload")


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body as if it had not been read."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message


def _refused_body(body: bytes) -> tuple[int, str] | None:
    try:
        values = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return 400, "expected JSON"
    while values:
        value = values.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if not isinstance(path, str | None):
                return 400, "expected a path as text"
            if path and "://" in path:
                return 403, "nothing is fetched from elsewhere"
            values += value.values()
        elif isinstance(value, list):
            values += value
    return None
