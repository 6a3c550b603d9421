"""Nested dicts as flat ones: 'image_tower/block_0/expand_conv/kernel' -> leaf, and patterns over such paths."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from align_jax.types import AlignError


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Path -> leaf, in the order of the tree; whatever is no mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, path + "/") if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a shell pattern names the path or a folder above it: 'image_tower', 'text_tower/layer_*/mlp_*'."""
    return any(fnmatchcase(path, pattern) or fnmatchcase(path, pattern + "/*") for pattern in patterns)


def check_patterns(patterns: Iterable[str], paths: Iterable[str], *, where: str) -> None:
    """Refuses a pattern that names nothing: it would silently do nothing."""
    known = list(paths)
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in known):
            roots = sorted({path.split("/")[0] for path in known})
            raise AlignError(
                f"{where}: expected patterns of parameter paths, {pattern!r} matches none; they start with {roots}"
            )
