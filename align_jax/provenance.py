"""What a run is made of: code, packages, machine and data. Its report names them, a resumed run must find its data."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax

from align_jax import code
from align_jax.data.source import Source
from align_jax.types import AlignError

PACKAGES = ("align_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "simplejpeg",
            "tokenizers", "tensorflow-datasets", "libtpu")  # fmt: skip


def describe(source: Source, reads: Mapping[str, str]) -> dict[str, Any]:
    """{"versions", "code", "device", "devices", "processes", "data": {"records", "problems", "files", "reads"}}.

    `reads`: of `Examples`.
    """
    return {
        "versions": versions(),
        "code": code.digest(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "data": {
            "records": len(source),
            "problems": dict(source.problems),
            "files": [file._asdict() for file in source.files()],
            "reads": dict(reads),
        },
    }


def versions() -> dict[str, str]:
    """Of the installed packages on which numbers may depend."""
    return {package: found for package in PACKAGES if (found := _version(package))}


def digest(source: Source) -> str:
    """Of the data, wherever they lie: what all hosts of a run must have the same."""
    rows = [[file.records, file.digest] for file in source.files()]
    return hashlib.blake2b(json.dumps([len(source), rows]).encode(), digest_size=8).hexdigest()


def refuse_other_data(source: Source, path: Path) -> None:
    """Refuses to continue the run that stands at `path`, its run.json, on other data than it began with."""
    if not path.exists():
        return
    before = json.loads(path.read_text())["data"]
    empty = {"name": "no file", "records": 0, "digest": "none"}
    for old, file in zip_longest(before["files"], source.files()):
        old, new = old or empty, file._asdict() if file else empty
        if (old["records"], old["digest"]) != (new["records"], new["digest"]):
            raise AlignError(
                f"{path.parent} holds a run on {old['name']} with {old['records']:,} records, digest {old['digest']}, "
                f"now found {new['name']} with {new['records']:,}, digest {new['digest']}; give another --workdir or "
                "the same data"
            )


def refuse_other_reads(reads: Mapping[str, str], path: Path) -> None:
    """The same of what is read besides the source (`Examples.reads`)."""
    if not path.exists():
        return
    before = json.loads(path.read_text())["data"].get("reads", {})  # of an older run, nothing
    for name, digest in reads.items():
        if before.get(name, digest) != digest:
            raise AlignError(
                f"{path.parent} holds a run on {name} of digest {before[name]}, now found {digest}; give another "
                "--workdir or the same"
            )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
