"""ONNX: one graph for each function, with its weights inside, by jax2onnx; any number of rows.

Convolutions are traced as convolutions (`models.lowering.portable`), not as the shifted multiplies that suit XLA on
CPU. The graphs compute in f32, whatever the towers were trained in: onnxruntime has no bf16 convolution on CPU.
Weights of more than a megabyte lie in the .data file beside a graph.
"""

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax.exporting.subject import Rows, Subject
from align_jax.models.lowering import portable
from align_jax.types import AlignError

SUFFIX = ".onnx"
OPSET = 17  # of operators: that of onnxruntime 1.12 and TensorRT 8.6; newer ones gain nothing here
PACKAGES = ("onnx", "onnxruntime", "onnx_ir", "jax2onnx")


def require() -> None:
    """Refuses where a package is missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise AlignError(
            f"--format=onnx: expected the packages {', '.join(PACKAGES)}, found no {', '.join(missing)}; "
            'pip install -e ".[onnx]" && pip install --no-deps jax2onnx'
        )


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Writes the graphs, checked by onnx; {"opset", "ir_version"}."""
    require()
    import onnx

    for name in ("jax2onnx", "onnx_ir"):  # they tell of examples that lack packages, and of shapes that may be unknown
        logging.getLogger(name).setLevel(logging.ERROR)
    from jax2onnx import to_onnx

    folder.mkdir(parents=True)
    version = 0
    for name in subject.functions:
        path = folder / f"{name}{SUFFIX}"
        given = [_Rows(row) for row in subject.inputs(name).values()]
        with portable():
            to_onnx(
                subject.program(name), given, model_name=name, opset=OPSET, return_mode="file", output_path=path,
                input_names=tuple(subject.inputs(name)), output_names=("rows",),
            )  # fmt: skip
        onnx.checker.check_model(path, full_check=True)
        version = onnx.load(path, load_external_data=False).ir_version
    return {"opset": OPSET, "ir_version": version}


def read(subject: Subject, folder: Path) -> dict[str, Rows]:
    """The graphs in onnxruntime, on its CPU provider."""
    return {name: opened(folder / f"{name}{SUFFIX}") for name in subject.functions}


def opened(path: Path, *, threads: int = 0) -> Rows:
    """A graph in onnxruntime, on `threads` threads (0: as it finds best)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base
        raise AlignError(
            f"{path}: expected a graph for onnxruntime, found none: {' '.join(str(error).split())}"
        ) from error

    def rows(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(session.run(None, dict(inputs))[0])

    return rows


class _Rows:
    """Shape, with any number of rows, and dtype of an input, as the converter asks for them."""

    def __init__(self, row: jax.ShapeDtypeStruct):
        self.shape, self.dtype = ("B", *row.shape), np.dtype(row.dtype)
