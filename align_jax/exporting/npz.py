"""NumPy: all weights in one weights.npz, path -> array, for programs that have NumPy and nothing else.

'params/image_tower/block_0/expand_conv/kernel' is what the model has there, in its layout (kernels [k, k, in, out],
matrices [in, out]). Of weights stored as int8, a 'NAME.scale' is to be multiplied with NAME. NumPy has no bfloat16:
those are their 16 bits, as uint16; (bits.astype(np.uint32) << 16).view(np.float32) is their value.
"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np

from align_jax import compact
from align_jax.exporting.subject import Rows, Subject, split
from align_jax.types import AlignError

FILE = "weights.npz"


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Writes the file."""
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {
        name: array.view(np.uint16) if array.dtype == jnp.bfloat16 else array for name, array in subject.stored.items()
    }
    np.savez(folder / FILE, **arrays)
    return {"file": FILE}


def read(subject: Subject, folder: Path) -> dict[str, Rows]:
    """The functions with the weights in the file."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise AlignError(f"{folder / FILE}: expected arrays of NumPy, found none ({error})") from error
    values = {
        name: (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array
        for name, array in stored.items()
    }
    return subject.rows(*split(compact.unpack(values, subject.kind)))
