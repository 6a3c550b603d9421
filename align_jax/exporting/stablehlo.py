"""StableHLO: one file for each function, with its weights inside, by jax.export, for all of --platforms.

The weights stand in the program, and not beside it: a file is a function, nothing can be paired wrongly, and what
depends on weights alone (a norm's factor, int8 to f32) is computed once, when the program is compiled. A file ends at
2 GB, which holds either tower of the largest model of the paper.

To call one, with jax and numpy alone, uint8 [B, H, W, 3] of any B to float32 [B, D]:

    import jax, numpy as np
    with open("embed_images.stablehlo", "rb") as file:
        embed_images = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
    rows = embed_images(np.zeros((2, 289, 289, 3), np.uint8))

embed_texts takes int32 ids and a bool mask, both [B, L]. Within one platform a program is the live one; a file may
be read by versions of jax up to half a year newer than the one that wrote it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax.exporting.subject import Rows, Subject
from align_jax.types import AlignError

SUFFIX = ".stablehlo"
LARGEST = 2**31  # bytes of a flatbuffer


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Writes the files; {"platforms", "calling_convention_version"}."""
    here = jax.default_backend()
    platforms = tuple("cuda" if name == "gpu" else name for name in subject.platforms)
    if (here if here != "gpu" else "cuda") not in platforms:
        raise AlignError(f"--platforms: expected {here} among them, where the program is checked, found {platforms}")
    folder.mkdir(parents=True)
    version = 0
    for name in subject.functions:
        size = sum(array.nbytes for array in subject.used(name).values())
        if size >= LARGEST:
            raise AlignError(
                f"--format=stablehlo: expected weights of {name} below 2 GB, found {size / 1e9:.1f} GB; choose "
                "--weights=bfloat16 or int8, or --format=onnx"
            )
        (rows,) = jax.export.symbolic_shape("B")
        given = [jax.ShapeDtypeStruct((rows, *row.shape), row.dtype) for row in subject.inputs(name).values()]
        exported = jax.export.export(jax.jit(subject.program(name)), platforms=platforms)(*given)
        (folder / f"{name}{SUFFIX}").write_bytes(exported.serialize())
        version = exported.calling_convention_version
    return {"platforms": list(platforms), "calling_convention_version": version}


def read(subject: Subject, folder: Path) -> dict[str, Rows]:
    """The files, as their users open them."""
    return {name: _opened(folder / f"{name}{SUFFIX}", tuple(subject.inputs(name))) for name in subject.functions}


def _opened(path: Path, order: tuple[str, ...]) -> Rows:
    try:
        call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    except Exception as error:  # whatever the reader of damaged bytes raises
        raise AlignError(f"{path}: expected a program of jax.export, found none ({type(error).__name__})") from error

    def rows(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(call(*(inputs[name] for name in order)))

    return rows
