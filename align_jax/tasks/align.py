"""ALIGN: an EfficientNet and a BERT, joined by a contrastive loss over the global batch (Jia et al. 2021)."""

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
from align_jax.losses.candidates import DUPLICATES
from align_jax.losses.contrastive import FORMS, Contrastive, contrastive_loss
from align_jax.models.blocks import ALL, in_block
from align_jax.models.dual_encoder import POOLINGS, DualEncoder
from align_jax.models.randomness import row_keys
from align_jax.types import AlignError, Aux, Batch, Mean, ModelState, Params, PyTree, SplitRule

EXAMPLES = "pairs"
OBJECTIVES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Align:
    """The dual-encoder task. `image_size` in pixels, `text_length` in word pieces."""

    model: DualEncoder
    vocab_size: int
    image_size: int
    text_length: int
    contrast: Callable[..., Contrastive]  # `contrastive_loss` with what the config says of it
    micro_batches: int = 1  # slices of each device's rows that are embedded one after the other
    gather: str = "step"  # when parameters that are split over fsdp come together
    gradient_dtype: Any = None  # in which devices add up their gradients; None: that of the parameters
    split: tuple[SplitRule, ...] = ()  # how parameters that it names are split over fsdp
    objective: str = "softmax"
    negatives: float = 1.0  # share of the other rows that count as negatives
    pixels: str = DEFAULT_PIXELS  # of PIXELS
    frozen_statistics: bool = False  # the image tower trains with its running statistics, which stay
    features: bool = False  # batches hold what the locked towers made of pictures and texts

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh towers, for pictures and texts of the sizes that the task has."""
        images = jnp.zeros((1, self.image_size, self.image_size, 3), jnp.uint8)
        ids = jnp.zeros((1, self.text_length), jnp.int32)
        variables = dict(self.model.init(rng, self._pixels(images), ids, ids == 0, train=False, keys=None))
        return variables.pop("params"), variables

    def check(self, rows: int) -> None:
        """Whole groups of BatchNorm in each micro-batch of each device, where it looks at the batch."""
        group = self.model.image_tower.bn_group_size if self._batch_statistics else 1
        towers.check_rows(rows, group=group, micro_batches=self.micro_batches)

    def chance(self, rows: int) -> float | None:
        """Of the softmax loss: all candidates alike, in both directions."""
        return 2 * math.log(1 + (rows - 1) * self.negatives) if self.objective == "softmax" else None

    def init_task_state(self, params: Params, model_state: ModelState) -> PyTree:
        """ALIGN carries nothing else."""
        return ()

    def loss(
        self, params: Params, model_state: ModelState, task_state: PyTree, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The contrastive loss over all N pairs, each device embedding its own rows."""
        rows = dict(batch) | {"key": row_keys(rng, batch["ids"].shape[0])}
        later = in_block if self.gather == "block" else None
        run = sharding.per_device(self._rows, rules=self.split, later=later, reduce=self.gradient_dtype)
        _, (parts, sums, new_state) = run((params, model_state), rows)
        temperature = jnp.exp(params["log_temperature"])
        metrics = {
            "loss": parts.loss,
            "image_to_text": parts.image_to_text,
            "text_to_image": parts.text_to_image,
            "temperature": Mean(temperature, jnp.ones_like(temperature)),
            "image_cosine": _mean_cosine(sums[0], parts.loss.count),
            "text_cosine": _mean_cosine(sums[1], parts.loss.count),
        }
        new_state = new_state if self._batch_statistics else model_state
        return parts.loss.total / parts.loss.count, Aux(new_state, task_state, metrics)

    @property
    def _batch_statistics(self) -> bool:
        """Whether BatchNorm uses those of the batch, somewhere in the tower, and not the running ones."""
        return not (self.frozen_statistics or self.model.image_tower.locked == ALL)

    @property
    def locked(self) -> tuple[str, ...]:
        """What of the towers is locked."""
        image, text = self.model.image_tower.locked_parts, self.model.text_tower.locked_parts
        return towers.locked_paths("image_tower", image) + towers.locked_paths("text_tower", text)

    def _rows(self, shared: tuple[Params, ModelState], rows: Batch) -> tuple[tuple[()], tuple[Any, ...]]:
        params, model_state = shared
        image, text, new_state = self._embed(params, model_state, rows)
        parts = self.contrast(
            image, text, jnp.exp(params["log_temperature"]),
            bias=params.get("bias"), ids=rows["ids"], axis_names=sharding.AXES,
        )  # fmt: skip
        sums = jax.lax.stop_gradient((image.sum(0), text.sum(0)))
        return (), (sharding.total(parts), sharding.total(sums), sharding.mean(new_state))

    def _embed(self, params: Params, model_state: ModelState, rows: Batch) -> tuple[jax.Array, jax.Array, ModelState]:
        """(image, text) [B, D] of the rows here, and the model state after them.

        In micro-batches, the backward pass embeds each anew, with the same row keys (gradient caching: Gao et al. 2021,
        arXiv 2101.06983): the memory of one, the gradients of all. Each starts from the same statistics; the new ones
        are the mean over all (design decision 3).
        """

        variables = {"params": params, **model_state}

        def project(micro: Batch) -> tuple[jax.Array, jax.Array, ModelState]:
            image: Any = self.model.apply(variables, micro["image_features"], method="project_images")
            text: Any = self.model.apply(variables, micro["text_features"], method="project_texts")
            return image, text, {}

        def embed(micro: Batch) -> tuple[jax.Array, jax.Array, ModelState]:
            if self.features:
                return project(micro)
            (image, text), new_state = self.model.apply(
                variables, self._pixels(micro["image"]), micro["text_ids"], micro["text_mask"],
                train=self._batch_statistics, keys=micro["key"],
                mutable=list(model_state) if self._batch_statistics else [],
            )  # fmt: skip
            return image, text, new_state

        if self.micro_batches == 1:
            return embed(rows)
        micro = jax.tree.map(lambda x: x.reshape(self.micro_batches, -1, *x.shape[1:]), dict(rows))
        image, text, states = jax.lax.map(jax.checkpoint(embed), micro)
        image, text = (x.reshape(-1, x.shape[-1]) for x in (image, text))
        return image, text, jax.tree.map(lambda x: x.mean(0), states)

    def functions(self) -> dict[str, Callable[[Params, ModelState, Batch], jax.Array]]:
        """embed_images({"image": uint8 [B, H, W, 3]}), embed_texts({"text_ids", "text_mask"}): unit rows [B, D].

        image_features, text_features: the same, before the projections (rows of any length).
        """

        def images(method: str, params: Params, model_state: ModelState, inputs: Batch) -> Any:
            variables = {"params": params, **model_state}
            return self.model.apply(variables, self._pixels(inputs["image"]), train=False, keys=None, method=method)

        def texts(method: str, params: Params, model_state: ModelState, inputs: Batch) -> Any:
            variables = {"params": params, **model_state}
            return self.model.apply(variables, inputs["text_ids"], inputs["text_mask"], keys=None, method=method)

        return {
            name: functools.partial(images if "image" in name else texts, name)
            for name in ("embed_images", "embed_texts", "image_features", "text_features")
        }

    def dummy_batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """Random pairs, or features of such."""
        rng = np.random.default_rng(0)
        image, text = self.model.image_tower, self.model.text_tower
        inputs = {
            "image_features": rng.normal(size=(batch_size, image.features)).astype(np.float32),
            "text_features": rng.normal(size=(batch_size, text.width)).astype(np.float32),
        } if self.features else {
            "image": rng.integers(0, 256, (batch_size, self.image_size, self.image_size, 3), np.uint8),
            "text_ids": rng.integers(0, self.vocab_size, (batch_size, self.text_length), np.int32),
            "text_mask": np.arange(self.text_length)[None, :] < rng.integers(2, self.text_length + 1, (batch_size, 1)),
        }  # fmt: skip
        return inputs | {"ids": rng.integers(0, 2**32, (batch_size, 2, 2), np.uint32)}

    def _pixels(self, images: jax.Array) -> jax.Array:
        return towers.pixels(images, self.model.param_dtype, self.pixels)


def _mean_cosine(total: jax.Array, rows: jax.Array) -> Mean:
    """Over all pairs of different rows, from the sum [D] of their unit vectors: near 1 where they have collapsed."""
    return Mean(jnp.sum(jnp.square(total)) - rows, rows * (rows - 1))


def build(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    embedding: int,
    image_projection: bool = False,
    temperature: float = 1.0,
    objective: str = "softmax",
    bias: float = -10.0,
    text_pooling: str = "cls",
    frozen_statistics: bool = False,
    label_smoothing: float | None = None,
    negatives: float = 1.0,
    duplicates: str = "negatives",
    loss_form: str = "dense",
    loss_block: int = 1024,
    micro_batches: int = 1,
    gather: str = "step",
    gradient_dtype: str | None = None,
    split: Sequence[SplitRule] = (),
    pixels: str = DEFAULT_PIXELS,
    dtype: str = "float32",
    param_dtype: str = "float32",
    features: bool = False,
    image_size: int,
    text_length: int,
    vocab_size: int,
) -> Align:
    """The task of `config.task`.

    Args:
      image: fields of EfficientNet, `variant` naming a published width and depth. text: fields of Bert, `size` a
        published one. Of both, `locked`: the first blocks, and what comes before them, that stay as they are (-1: all).
      embedding: D. image_projection: the linear layer that takes image features of another width to D.
      temperature: at the start, > 0.
      objective: of `OBJECTIVES`. bias: of the sigmoid's logits at the start. label_smoothing: of the softmax's targets,
        0.1 unless given.
      text_pooling: of `POOLINGS`: what stands for a text, the last vector of [CLS], or the mean over its pieces.
      frozen_statistics: BatchNorm uses the statistics that the tower came with, in training too, and leaves them.
      negatives, duplicates, loss_form, loss_block: see `contrastive_loss`; the form changes memory and speed alone.
      micro_batches: slices of each device's rows that the towers take one after the other, with the loss and the
        gradients of the whole.
      gather: of `towers.GATHER`: parameters that are split over fsdp come together once for the step, or those of each
        block when it is used, in the towers' dtype, which with remat takes less memory, and more traffic.
      gradient_dtype: in which devices add up their gradients, that of the parameters unless given.
      split: (pattern of parameter paths, axis), axis -1 for whole: how those are split over fsdp; the rest go by size.
      pixels: of PIXELS, how bytes become the image tower's numbers.
      dtype: in which the towers compute. param_dtype: of parameters, statistics and the loss.
      features: batches hold rows of the locked towers' features instead of pictures and texts.
      image_size (pixels), text_length and vocab_size (word pieces): as the data gives them.
    """
    if temperature <= 0:
        raise AlignError(f"config.task.temperature: expected a number above 0, found {temperature}")
    smoothing = 0.1 if label_smoothing is None and objective == "softmax" else label_smoothing or 0.0
    if not 0 <= smoothing < 1 or not 0 < negatives <= 1:
        raise AlignError(
            "config.task: expected 0 <= label_smoothing < 1 and 0 < negatives <= 1, "
            f"found {label_smoothing} and {negatives}"
        )
    if objective == "sigmoid" and smoothing:
        raise AlignError(f"config.task.label_smoothing: the sigmoid loss has none, found {smoothing}; leave it out")
    for key, value, known in (
        ("objective", objective, OBJECTIVES), ("duplicates", duplicates, DUPLICATES), ("loss_form", loss_form, FORMS),
        ("text_pooling", text_pooling, POOLINGS), ("gather", gather, towers.GATHER), ("pixels", pixels, tuple(PIXELS)),
        ("gradient_dtype", gradient_dtype or param_dtype, towers.DTYPES),
    ):  # fmt: skip
        towers.one_of(key, value, known)
    if loss_block < 1 or micro_batches < 1:
        raise AlignError(
            f"config.task: expected loss_block and micro_batches of at least 1, found {loss_block}, {micro_batches}"
        )
    dtypes: dict[str, Any] = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    tower = towers.image_tower(image, side=image_size, **dtypes)
    reader = towers.text_tower(text, vocab_size=vocab_size, **dtypes)
    width = tower.features
    if not image_projection and width != embedding:
        raise AlignError(
            f"config.task.embedding: expected the image tower's {width} features, found {embedding}; "
            f"set --config.task.embedding={width} or --config.task.image_projection=True"
        )
    if features and not tower.locked == reader.locked == ALL:
        raise AlignError(
            f"config.data.features: expected both towers locked, found blocks {tower.locked} and {reader.locked}; set "
            f"--config.task.image.locked={ALL} --config.task.text.locked={ALL} or --config.data.features=False"
        )
    model = DualEncoder(
        image_tower=tower,
        text_tower=reader,
        embedding=embedding,
        image_projection=image_projection,
        temperature_init=temperature,
        bias_init=bias if objective == "sigmoid" else None,
        text_pooling=text_pooling,
        param_dtype=dtypes["param_dtype"],
    )
    contrast = functools.partial(
        contrastive_loss, label_smoothing=smoothing, negatives=negatives, duplicates=duplicates, form=loss_form,
        block=loss_block,
    )  # fmt: skip
    reduce = None if gradient_dtype is None else jnp.dtype(gradient_dtype)
    return Align(
        model, vocab_size, image_size, text_length, contrast, micro_batches, gather, reduce, towers.split_rules(split),
        objective, negatives, pixels, frozen_statistics, features,
    )  # fmt: skip


def make(config: Config) -> Align:
    """The task of a whole config."""
    given = {key: value for key, value in config.task.to_dict().items() if key != "name"}
    for name in ("image", "text"):
        given[name] = towers.as_frozen(given[name], f"{name}_tower", config.freeze)
    sizes = {
        "features": config.data.get("features", False),
        "image_size": config.data.crop,
        "text_length": config.data.text_length,
        "vocab_size": config.data.vocab.size,
    }
    return call(build, given, where="config.task", **sizes)


def tiny() -> Align:
    """The smallest model with every part in it, dropout and stochastic depth on, for the contract tests."""
    return build(
        # Maps of 4 x 4 at the end and groups of 4 rows: statistics over fewer values make gradients ill-conditioned.
        image={"width": 0.25, "stages": ((1, 3, 1, 16), (1, 5, 6, 80)), "strides": (1, 4),
               "bn_group_size": 4},
        text={"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64, "dropout": 0.1},
        embedding=16, image_projection=True, image_size=32, text_length=8, vocab_size=64,
    )  # fmt: skip
