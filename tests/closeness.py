"""How far trees of arrays are apart."""

import jax
import numpy as np


def relative_error(found, expected) -> float:
    """The largest error of any leaf, relative to the leaf's largest entry.

    The gradient of a bias that the next BatchNorm removes is zero but for rounding, so the size of a leaf counts as at
    least a thousandth of the largest one's.
    """
    floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    errors = jax.tree.map(lambda a, b: np.abs(a - b).max() / max(np.abs(b).max(), floor), found, expected)
    return max(jax.tree.leaves(errors))


HEAD = "| model | direction | max abs error | max rel. error | cosine |\n|---|---|---:|---:|---:|"


def errors(found, expected):
    """Of rows, for a table below `HEAD`: the largest error, also relative to the largest number; the least cosine."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    worst = np.abs(found - expected).max()
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosine = np.sum(found * expected, -1) / lengths
    return f"{worst:.1e} | {worst / np.abs(expected).max():.1e} | {cosine.min():.10f}"
