"""What a user gives to a model: pictures and texts, one or many, in the forms that Python programs hold them."""

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, TypeGuard, TypeVar

import numpy as np
from PIL import Image

from align_jax.data.source import Record
from align_jax.types import AlignError

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray | Record
Pictures = Picture | Iterable[Picture]
Texts = str | Iterable[str]

PICTURE = "a path, the bytes of an encoded picture, a PIL image or an array uint8 [H, W, 3]"

T = TypeVar("T")


def is_picture(given: object) -> TypeGuard[Picture]:
    """Whether it is one picture by its type; a number, say, is none, nor are several pictures one."""
    if isinstance(given, np.ndarray):
        return given.dtype.kind not in "OU" and given.ndim in (2, 3)
    return isinstance(given, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Record)


def pictures(given: Pictures) -> Iterable[Picture]:
    """Many, also where one is given. Arrays of two or three axes are one picture, of four axes many.

    AlignError for what is neither, and for what has no order.
    """
    return [given] if is_picture(given) else _many(given, f"images: expected {PICTURE}, or several of these in order")


def texts(given: Texts) -> Iterable[str]:
    """Many, also where one is given. AlignError for what is no text nor texts, and for what has no order."""
    return [given] if isinstance(given, str) else _many(given, "texts: expected a text, or several in order")


def picture(index: int, given: Picture) -> str | bytes | Image.Image | np.ndarray | Record:
    """Picture `index` as `data.images` reads it, or the record that holds one. AlignError for another type."""
    if isinstance(given, os.PathLike):
        return os.fsdecode(given)
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        raise AlignError(
            f"image {index}: expected an array of uint8, 0 black and 255 white, found {given.dtype}; if it goes from 0 "
            "to 1, give (255 * array).round().astype('uint8')"
        )
    if isinstance(given, str | bytes | Image.Image | np.ndarray | Record):
        return given
    raise AlignError(f"image {index}: expected {PICTURE}, found {type(given).__name__}")


def text(index: int, given: str) -> str:
    """Text `index`. AlignError for another type, and for one without a word."""
    if not isinstance(given, str):
        raise AlignError(f"text {index}: expected a str, found {type(given).__name__}")
    if not given.strip():
        raise AlignError(f"text {index}: expected at least one word, found {given!r}")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise AlignError(f"text {index}: expected Unicode, found {given!r}, which has half a surrogate pair") from error
    return given


def described(given: Picture) -> str:
    """A picture in the words of an error: its path, or what it is."""
    if isinstance(given, str | os.PathLike):
        return os.fsdecode(given)
    if isinstance(given, Record):
        return f"record {given.id}"
    if isinstance(given, np.ndarray):
        return f"an array {given.dtype} {list(given.shape)}"
    return f"{len(given)} bytes" if isinstance(given, bytes | bytearray | memoryview) else type(given).__name__


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one of what is left; no more than one list is read ahead."""
    remaining = iter(items)
    while part := list(itertools.islice(remaining, size)):
        yield part


def _many(given: Any, expected: str) -> Iterable[Any]:
    # An open file would give lines, a dict its keys, and a set another order in each process.
    if not isinstance(given, Iterable) or isinstance(given, Mapping | Set | io.IOBase | bytes | bytearray):
        raise AlignError(f"{expected}, found {type(given).__name__}")
    if isinstance(given, np.ndarray) and given.ndim == 0:
        raise AlignError(f"{expected}, found an array without axes")
    return given
