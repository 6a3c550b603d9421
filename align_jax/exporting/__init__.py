"""Formats of an export, one a file: how each is written, and opened again for the check."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from align_jax.compact import KINDS
from align_jax.exporting import hf, native, npz, onnx, stablehlo
from align_jax.exporting.subject import Rows, Subject


class Format(NamedTuple):
    """One format."""

    write: Callable[[Subject, Path], dict[str, Any]]  # makes the folder; gives what signature.json says of the format
    read: Callable[[Subject, Path], Mapping[str, Rows]]  # what was written, as its users open it, by function
    weights: tuple[str, ...] = KINDS  # how it can store them
    suffix: str = ""  # of the file of a function, where each has one
    dtype: str | None = None  # in which it computes, where not as the towers were trained


FORMATS = {
    "align_jax": Format(native.write, native.read),
    "stablehlo": Format(stablehlo.write, stablehlo.read, suffix=stablehlo.SUFFIX),
    "onnx": Format(onnx.write, onnx.read, suffix=onnx.SUFFIX, dtype="float32"),
    "hf": Format(hf.write, hf.read, weights=("float32",), dtype="float32"),
    "numpy": Format(npz.write, npz.read),
}
