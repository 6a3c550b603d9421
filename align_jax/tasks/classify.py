"""Fine-tuning: ALIGN's image tower as a classifier (Jia et al. 2021, section 5.3; facts: ALIGN section 6).

The tower comes from an ALIGN run or export by `config.init.checkpoints` with the paths {"image_tower": "image_tower"}.
Where `config.freeze` names it, the head learns from the features that inference gives, running statistics and no
stochastic depth: they are those of the pre-trained encoder, which the paper's "frozen features" measure.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import sharding, towers
from align_jax.config import Config, call
from align_jax.data.pixels import DEFAULT_PIXELS, PIXELS
from align_jax.losses.classification import cross_entropy
from align_jax.models.blocks import ALL, in_block
from align_jax.models.classifier import Classifier
from align_jax.models.randomness import fold, row_keys
from align_jax.types import AlignError, Aux, Batch, Mean, ModelState, Params, PyTree, SplitRule

EXAMPLES = "labelled"


@dataclasses.dataclass(frozen=True)
class Classify:
    """The classification task. `image_size` in pixels."""

    model: Classifier
    image_size: int
    label_smoothing: float = 0.0
    frozen_statistics: bool = False  # it trains, with its running statistics, which stay
    micro_batches: int = 1  # slices of each device's rows, one after the other
    gather: str = "step"  # when parameters that are split over fsdp come together
    gradient_dtype: Any = None  # in which devices add up their gradients; None: that of the parameters
    split: tuple[SplitRule, ...] = ()  # how parameters that it names are split over fsdp
    pixels: str = DEFAULT_PIXELS  # of PIXELS

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        """A fresh tower and head. The batch gives shapes only."""
        variables = dict(self.model.init(rng, self._pixels(batch["image"][:1])))
        return variables.pop("params"), variables

    def check(self, rows: int) -> None:
        """Whole groups of BatchNorm in each micro-batch of each device, where it looks at the batch."""
        group = self.model.image_tower.bn_group_size if self._batch_statistics else 1
        towers.check_rows(rows, group=group, micro_batches=self.micro_batches)

    def chance(self, rows: int) -> float:
        """All classes alike."""
        return math.log(self.model.classes)

    def init_task_state(self, params: Params, model_state: ModelState) -> PyTree:
        """Nothing else."""
        return ()

    def loss(
        self, params: Params, model_state: ModelState, task_state: PyTree, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The mean cross-entropy over all N images, each device taking its own rows."""
        rows = dict(batch) | {"key": row_keys(rng, batch["image"].shape[0])}
        later = in_block if self.gather == "block" else None
        run = sharding.per_device(self._rows, rules=self.split, later=later, reduce=self.gradient_dtype)
        _, (metrics, new_state) = run((params, model_state), rows)
        loss = metrics["loss"]
        return loss.total / loss.count, Aux(new_state if self._batch_statistics else model_state, task_state, metrics)

    @property
    def _batch_statistics(self) -> bool:
        """Whether BatchNorm uses those of the batch, and not the running ones."""
        return not (self.frozen_statistics or self.model.image_tower.locked == ALL)

    @property
    def locked(self) -> tuple[str, ...]:
        """What of the tower is locked."""
        return towers.locked_paths("image_tower", self.model.image_tower.locked_parts)

    def _rows(self, shared: tuple[Params, ModelState], rows: Batch) -> tuple[tuple[()], tuple[Any, ...]]:
        """(sums over the rows here, the model state after them). All micro-batches start from the same state."""
        part = functools.partial(self._part, *shared)
        if self.micro_batches == 1:
            sums, state = part(rows)
        else:
            micro = jax.tree.map(lambda x: x.reshape(self.micro_batches, -1, *x.shape[1:]), dict(rows))
            sums, states = jax.lax.map(jax.checkpoint(part), micro)
            sums, state = jax.tree.map(lambda x: x.sum(0), sums), jax.tree.map(lambda x: x.mean(0), states)
        return (), (sharding.total(sums), sharding.mean(state))

    def _part(self, params: Params, model_state: ModelState, rows: Batch) -> tuple[dict[str, Mean], ModelState]:
        logits, new_state = self.model.apply(
            {"params": params, **model_state}, self._pixels(rows["image"]), train=self._batch_statistics,
            tower_keys=fold(rows["key"], 0), head_keys=fold(rows["key"], 1),
            mutable=list(model_state) if self._batch_statistics else [],
        )  # fmt: skip
        losses = cross_entropy(logits, rows["label"], label_smoothing=self.label_smoothing)
        right = (logits.argmax(1) == rows["label"]).astype(losses.dtype)
        count = jnp.asarray(len(losses), losses.dtype)
        return {"loss": Mean(losses.sum(), count), "accuracy": Mean(right.sum(), count)}, new_state

    def functions(self) -> dict[str, Callable[[Params, ModelState, Batch], jax.Array]]:
        """Of {"image": uint8 [B, H, W, 3]}: classify_images, logits [B, C]; image_features [B, D]; embed_images, the
        same of unit length.
        """

        def images(method: str, params: Params, model_state: ModelState, inputs: Batch) -> Any:
            return self.model.apply({"params": params, **model_state}, self._pixels(inputs["image"]), method=method)

        methods = {"classify_images": "__call__", "image_features": "image_features", "embed_images": "embed_images"}
        return {name: functools.partial(images, method) for name, method in methods.items()}

    def dummy_batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """Random images and labels."""
        rng = np.random.default_rng(0)
        return {
            "image": rng.integers(0, 256, (batch_size, self.image_size, self.image_size, 3), np.uint8),
            "label": rng.integers(0, self.model.classes, batch_size, np.int32),
        }

    def _pixels(self, images: jax.Array) -> jax.Array:
        return towers.pixels(images, self.model.param_dtype, self.pixels)


def build(
    *,
    image: Mapping[str, Any],
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    frozen_statistics: bool = False,
    micro_batches: int = 1,
    gather: str = "step",
    gradient_dtype: str | None = None,
    split: Sequence[SplitRule] = (),
    pixels: str = DEFAULT_PIXELS,
    dtype: str = "float32",
    param_dtype: str = "float32",
    image_size: int,
    classes: int,
) -> Classify:
    """The task of `config.task`.

    Args:
      image: fields of EfficientNet, those of the tower to start from. dropout: of the features, in [0, 1).
      label_smoothing: of the targets, in [0, 1).
      frozen_statistics: BatchNorm uses the statistics that the tower came with, in training too, and leaves them.
      micro_batches, gather, gradient_dtype, split, pixels, dtype, param_dtype: as those of `align.build`.
      image_size (pixels), classes: as the data give them.
    """
    if not 0 <= label_smoothing < 1 or not 0 <= dropout < 1 or classes < 2 or micro_batches < 1:
        raise AlignError(
            "config.task: expected label_smoothing and dropout in [0, 1), micro_batches of at least 1 and data.classes "
            f"of at least 2, found {label_smoothing}, {dropout}, {micro_batches} and {classes}"
        )
    towers.one_of("gather", gather, towers.GATHER)
    towers.one_of("pixels", pixels, tuple(PIXELS))
    towers.one_of("gradient_dtype", gradient_dtype or param_dtype, towers.DTYPES)
    dtypes: dict[str, Any] = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    tower = towers.image_tower(image, side=image_size, **dtypes)
    return Classify(
        model=Classifier(tower, classes, dropout, dtypes["param_dtype"]),
        image_size=image_size,
        label_smoothing=label_smoothing,
        frozen_statistics=frozen_statistics,
        micro_batches=micro_batches,
        gather=gather,
        gradient_dtype=None if gradient_dtype is None else jnp.dtype(gradient_dtype),
        split=towers.split_rules(split),
        pixels=pixels,
    )


def make(config: Config) -> Classify:
    """The task of a whole config."""
    given = {key: value for key, value in config.task.to_dict().items() if key != "name"}
    given["image"] = towers.as_frozen(given["image"], "image_tower", config.freeze)
    sizes = {"image_size": config.data.crop, "classes": config.data.classes}
    task = call(build, given, where="config.task", **sizes)
    towers.check_side(task.model.image_tower, config.data.get("eval_crop") or task.image_size)
    return task


def tiny() -> Classify:
    """The smallest model with every part in it, dropout and stochastic depth on, for the contract tests."""
    return build(
        # Maps of 4 x 4 at the end and groups of 4 rows, as align.tiny; a block with a skip connection.
        image={"width": 0.25, "stages": ((1, 3, 1, 16), (2, 3, 2, 32)), "strides": (2, 2), "bn_group_size": 4},
        dropout=0.1, label_smoothing=0.1, image_size=32, classes=5,
    )  # fmt: skip
