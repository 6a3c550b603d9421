"""Optimizers, schedules, and what each parameter's path says about its update.

Norms, biases and scalars are excluded from weight decay and from LAMB's trust ratio (design decision 8): with it, a
log-temperature near 0 would hardly move. The learning rate reads `state.step`, not a counter of its own, so that a
skipped step costs nothing but itself.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from align_jax import paths
from align_jax.types import AlignError, ModelState, Params, PyTree

NAMES = ("lamb", "adamw", "adafactor", "sgd")
_BLOCK = re.compile(r"(?P<tower>[^/]+)/(block|layer)_(?P<number>\d+)/")
_HEAD = re.compile(r"[^/]+/head_")
SCHEDULES = ("linear", "cosine", "polynomial", "constant", "steps")


def _is_matrix(path: str) -> bool:
    """Kernels and embedding tables decay; by name, since a stack of biases is a matrix too."""
    return path.rsplit("/", 1)[-1] in ("kernel", "embedding")


def _matrices(params: Params) -> PyTree:
    return paths.unflatten({path: _is_matrix(path) for path in paths.flatten(params)})


def make_schedule(
    *, steps: int, peak: float, warmup: int, shape: str = "linear", end: float = 0.0, power: float = 2.0,
    boundaries: tuple[int, ...] = (), factor: float = 0.1,
) -> optax.Schedule:  # fmt: skip
    """step -> learning rate: linear from 0 to `peak` over `warmup` steps, then by `shape` to `end` at `steps`.

    The shape "steps" multiplies by `factor` at each of `boundaries` instead, which are steps of the run.
    """
    if shape not in SCHEDULES:
        raise AlignError(f"optim.schedule: expected one of {SCHEDULES}, found {shape!r}")
    if warmup < 0:
        raise AlignError(f"optim.warmup: expected at least 0 steps, found {warmup}")
    if bool(boundaries) != (shape == "steps") or list(boundaries) != sorted({b for b in boundaries if b > warmup}):
        raise AlignError(
            f"optim.boundaries: expected rising steps after the warm-up for the schedule 'steps' and none for others, "
            f"found {boundaries} for {shape!r}"
        )
    rest = max(steps - warmup, 1)
    decay = {
        "linear": optax.linear_schedule(peak, end, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=end / peak if peak else 0.0),
        "polynomial": optax.polynomial_schedule(peak, end, power, rest),
        "constant": optax.constant_schedule(peak),
        "steps": optax.piecewise_constant_schedule(peak, {boundary - warmup: factor for boundary in boundaries}),
    }[shape]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), decay], [warmup])


def _direction(
    name: str, weight_decay: float, b1: float, b2: float, eps: float, momentum: float
) -> optax.GradientTransformation:
    """Gradients -> what to subtract, before the learning rate."""
    decay = optax.add_decayed_weights(weight_decay, mask=_matrices)
    if name == "lamb":  # You et al. 2020
        return optax.chain(
            optax.scale_by_adam(b1, b2, eps), decay, optax.masked(optax.scale_by_trust_ratio(), _matrices)
        )
    if name == "adamw":  # Loshchilov and Hutter 2019
        return optax.chain(optax.scale_by_adam(b1, b2, eps), decay)
    if name == "adafactor":  # Shazeer and Stern 2018, with the relative step size left to the schedule
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), decay)
    if name == "sgd":  # as torch.optim.SGD: the decay is part of the gradient, and so of the momentum
        return optax.chain(decay, optax.trace(momentum))
    raise AlignError(f"optim.name: expected one of {NAMES}, found {name!r}")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """One update rule over a parameter tree, of which parts may be frozen, scaled or bounded by path."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    freeze: tuple[str, ...]
    groups: tuple[tuple[str, float], ...]
    bounds: tuple[tuple[str, float | None, float | None], ...]
    ema: float | None
    layer_decay: float = 1.0

    def init(self, params: Params) -> dict[str, Any]:
        """State for the trainable parameters alone."""
        where = paths.flatten(params)
        paths.check_patterns(self.freeze, where, where="freeze")
        paths.check_patterns([pattern for pattern, _ in self.groups], where, where="optim.groups")
        paths.check_patterns([pattern for pattern, _, _ in self.bounds], where, where="optim.bounds")
        trainable, _ = self._split(params)
        return {"transform": self.transform.init(trainable)} | (
            {} if self.ema is None else {"ema": jax.tree.map(jnp.copy, trainable)}
        )

    def trained(self, params: Params) -> list[str]:
        """Paths of the parameters that are trained, in the order of their leaves."""
        leaves, tree = jax.tree.flatten(self._split(params)[0])
        numbers = paths.flatten(jax.tree.unflatten(tree, range(len(leaves))))
        return sorted(numbers, key=numbers.__getitem__)

    def value_and_grad(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`jax.value_and_grad(loss, has_aux=True)` that differentiates the trainable parameters alone."""

        def of_params(params: Params, *args: Any) -> Any:
            trainable, frozen = self._split(params)
            return jax.value_and_grad(lambda tree: loss(_join(tree, frozen), *args), has_aux=True)(trainable)

        return of_params

    def update(
        self, gradients: Params, opt_state: dict[str, Any], params: Params, step: jax.Array
    ) -> tuple[Params, dict[str, Any]]:
        """Parameters and optimizer state after one step; `gradients` are those of the trainable parameters."""
        trainable, frozen = self._split(params)
        factors = self.factors(params)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer counts
            updates: Any
            updates, transform = self.transform.update(gradients, opt_state["transform"], trainable)
        rate = self.learning_rate(step)
        flat = {
            path: self._bounded(path, value - (rate * factors[path]).astype(value.dtype) * update)
            for (path, value), update in zip(
                paths.flatten(trainable).items(), paths.flatten(updates).values(), strict=True
            )
        }
        trainable, new_state = paths.unflatten(flat), {"transform": transform}
        if self.ema is not None:
            ema = self.ema
            new_state["ema"] = jax.tree.map(lambda old, new: ema * old + (1 - ema) * new, opt_state["ema"], trainable)
        return _join(trainable, frozen), new_state

    def learning_rate(self, step: jax.Array) -> jax.Array:
        """f32 scalar, before the factors of groups."""
        return jnp.asarray(self.schedule(step.astype(jnp.float32)))

    def factors(self, params: Params) -> dict[str, float]:
        """Path -> factor of its learning rate: that of its group times that of its layer; 0 where frozen."""
        flat = paths.flatten(params)
        layers = layer_factors(flat, self.layer_decay)
        return {
            path: 0.0 if paths.matches(path, self.freeze) else self._group_factor(path) * layers[path] for path in flat
        }

    def averaged(self, params: Params, opt_state: dict[str, Any]) -> Params:
        """The parameters to evaluate and export: their moving average where one is kept."""
        return params if self.ema is None else _join(opt_state["ema"], self._split(params)[1])

    def bounds_of(self, path: str) -> tuple[float | None, float | None]:
        """(low, high) of the parameter at `path`; None where there is none."""
        return next(
            ((low, high) for pattern, low, high in self.bounds if paths.matches(path, (pattern,))), (None, None)
        )

    def keep_frozen(self, old: ModelState, new: ModelState) -> ModelState:
        """The new model state, except below frozen paths: a frozen tower keeps its batch statistics."""
        flat = paths.flatten(old)
        return paths.unflatten(
            {
                p: flat[p] if paths.matches(p.split("/", 1)[-1], self.freeze) else x
                for p, x in paths.flatten(new).items()
            }
        )

    def _split(self, params: Params) -> tuple[Params, Params]:
        flat = paths.flatten(params)
        frozen = {path: leaf for path, leaf in flat.items() if paths.matches(path, self.freeze)}
        return paths.unflatten({p: x for p, x in flat.items() if p not in frozen}), paths.unflatten(frozen)

    def _group_factor(self, path: str) -> float:
        factor = 1.0
        for pattern, value in self.groups:
            factor = value if paths.matches(path, (pattern,)) else factor
        return factor

    def _bounded(self, path: str, value: jax.Array) -> jax.Array:
        for pattern, low, high in self.bounds:
            if paths.matches(path, (pattern,)):
                value = jnp.clip(value, low, high)
        return value


def layer_factors(known: Iterable[str], decay: float) -> dict[str, float]:
    """Path -> decay ** (layers from the top), in towers of blocks; 1 outside of them (Clark et al. 2020, ELECTRA).

    As in BEiT (Bao et al. 2022): what stands on a tower, such as a projection, keeps its rate, the last block has
    `decay`, the one before it the square of that, and what comes before the blocks, a stem or embeddings, least. A
    head_conv of the tower is its last block.
    """
    found = {path: _BLOCK.match(path) for path in known}
    blocks: dict[str, int] = {}  # of each tower
    for match in filter(None, found.values()):
        blocks[match["tower"]] = max(blocks.get(match["tower"], 0), int(match["number"]) + 1)
    heads = {path.split("/")[0] for path in found if _HEAD.match(path)}

    def depth(path: str) -> int:
        tower, match = path.split("/")[0], found[path]
        if tower not in blocks:
            return 0
        if tower in heads and _HEAD.match(path):
            return 1
        below = int(match["number"]) + 1 if match else 0
        return blocks[tower] + 1 - below + (tower in heads)

    return {path: decay ** depth(path) for path in found}


def _join(first: Params, second: Params) -> Params:
    return paths.unflatten(dict(sorted((paths.flatten(first) | paths.flatten(second)).items())))


def make(
    *,
    steps: int,
    freeze: tuple[str, ...] = (),
    name: str = "lamb",
    learning_rate: float,
    warmup: float,
    schedule: str = "linear",
    end_learning_rate: float = 0.0,
    power: float = 2.0,
    boundaries: tuple[int, ...] = (),
    factor: float = 0.1,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    groups: tuple[tuple[str, float], ...] = (),
    bounds: tuple[tuple[str, float | None, float | None], ...] = (),
    layer_decay: float = 1.0,
    ema: float | None = None,
) -> Optimizer:
    """The optimizer of `config.optim`.

    Args:
      steps, freeze: the run's length in steps, and patterns of parameter paths that do not train.
      name: one of NAMES. learning_rate, warmup, schedule, end_learning_rate, power, boundaries, factor: see
        `make_schedule`; a warmup below 1 is a share of all steps.
      weight_decay: decoupled, times the learning rate; of sgd, L2: added to the gradient. Matrices only.
      b1, b2, eps: of lamb and adamw. momentum: of sgd.
      clip_norm: largest global norm of the gradient; None leaves it alone.
      groups: (pattern, factor of the learning rate); the last match counts.
      bounds: (pattern, least, most) of the parameter itself, applied after the step.
      layer_decay: factor of the learning rate from one block of a tower to the block below it, see `layer_factors`.
      ema: decay of the moving average of the parameters that evaluation uses; None for none.
    """
    if not 0 < layer_decay <= 1:
        raise AlignError(f"optim.layer_decay: expected a number above 0 and at most 1, found {layer_decay}")
    direction = _direction(name, weight_decay, b1, b2, eps, momentum)
    if clip_norm is not None:
        direction = optax.chain(optax.clip_by_global_norm(clip_norm), direction)
    return Optimizer(
        transform=direction,
        schedule=make_schedule(
            steps=steps,
            peak=learning_rate,
            warmup=round(warmup * steps) if 0 < warmup < 1 else round(warmup),
            shape=schedule,
            end=end_learning_rate,
            power=power,
            boundaries=tuple(boundaries),
            factor=factor,
        ),
        freeze=tuple(freeze),
        groups=tuple((p, f) for p, f in groups),
        bounds=tuple((p, low, high) for p, low, high in bounds),
        ema=ema,
        layer_decay=layer_decay,
    )
