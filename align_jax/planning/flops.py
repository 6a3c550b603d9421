"""Operations of a program, counted in its jaxpr: right under loops, of which the compiler counts one turn."""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count(jaxpr: Any) -> float:
    """Floating-point operations (a multiply-add is two) of all matrix products and convolutions.

    `jaxpr` is that of `jax.make_jaxpr`. Inside `shard_map` shapes are those of one device, outside they are global. Of
    the branches of a condition the most expensive counts; a `while` of unknown length counts once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += max(count(branch.jaxpr) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            total += times * sum(count(inner) for inner in _inner(params))
    return total


def _convolution(equation: Any) -> float:
    """Each output adds up a kernel, but for entries that fall on the holes of a dilated input."""
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    filters = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(out) * math.prod(kernel) / filters / math.prod(equation.params["lhs_dilation"])


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found
