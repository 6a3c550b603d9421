"""What a run was made of: code, packages, machine and data, so that its report can name them."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

from align_jax import code
from align_jax.data.source import Source

PACKAGES = ("align_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "simplejpeg",
            "tokenizers", "tensorflow-datasets", "libtpu")  # fmt: skip


def describe(source: Source) -> dict[str, Any]:
    """{"versions", "code", "device", "devices", "processes", "data": {"records", "problems", "files"}}."""
    return {
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
        "code": code.digest(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "data": {
            "records": len(source),
            "problems": dict(source.problems),
            "files": [file._asdict() for file in source.files()],
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
