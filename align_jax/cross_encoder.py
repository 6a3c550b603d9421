"""The cross-encoder of `config.task`, which pre-training and fine-tuning share, and what it computes in inference."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import towers
from align_jax.config import Config
from align_jax.data.pixels import DEFAULT_PIXELS, PIXELS
from align_jax.models.blocks import ALL
from align_jax.models.image_bert import ImageBert, Visual
from align_jax.types import AlignError, Batch, ModelState, Params, SplitRule

VISUAL = ("image", "regions", "boxes", "region_mask")  # of a batch: what the model is shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEncoder:
    """ImageBERT with the sizes of what it is fed, and how a step of it is computed."""

    model: ImageBert
    vocab_size: int
    text_length: int  # L
    image_size: int | None  # pixels of the square that the image tower sees; None: stored regions
    regions: int | None  # R of stored regions; None: the cells of the image tower's map
    pixels: str = DEFAULT_PIXELS  # of PIXELS
    frozen_statistics: bool = False  # the image tower trains with its running statistics, which stay
    micro_batches: int = 1  # slices of each device's rows, one after the other
    gather: str = "step"  # when parameters that are split over fsdp come together
    gradient_dtype: Any = None  # in which devices add up their gradients; None: that of the parameters
    split: tuple[SplitRule, ...] = ()  # how parameters that it names are split over fsdp

    def see(
        self, params: Params, model_state: ModelState, rows: Batch, *, train: bool = False, keys: Any = None
    ) -> tuple[Visual, ModelState]:
        """What the model sees of images, and the model state after it. Statistics of the batch where `train` says."""
        inputs = {name: rows[name] for name in VISUAL if name in rows}
        if self.image_size is not None:
            inputs["image"] = towers.pixels(inputs["image"], self.model.param_dtype, self.pixels)
        seen: Any = self.model.apply(
            {"params": params, **model_state}, inputs, train=train, keys=keys, method="see",
            mutable=list(model_state) if train else [],
        )  # fmt: skip
        visual, new_state = seen
        return visual, new_state if train else model_state

    def init(self, rng: jax.Array) -> tuple[Params, ModelState]:
        """Fresh parameters and statistics."""
        batch = self.dummy_rows(1)
        inputs = {name: jnp.asarray(batch[name]) for name in VISUAL if name in batch}
        if self.image_size is not None:
            inputs["image"] = towers.pixels(inputs["image"], self.model.param_dtype, self.pixels)
        ids, mask = jnp.asarray(batch["text_ids"]), jnp.asarray(batch["text_mask"])
        variables = dict(self.model.init(rng, inputs, ids, mask, jnp.zeros((1, 1), jnp.int32)))
        return variables.pop("params"), variables

    def check(self, rows: int) -> None:
        """Whole groups of BatchNorm in each micro-batch of each device, where there is any that looks at the batch."""
        tower: Any = self.model.image_tower
        towers.check_rows(
            rows, group=tower.bn_group_size if self.batch_statistics else 1, micro_batches=self.micro_batches
        )

    @property
    def batch_statistics(self) -> bool:
        """Whether BatchNorm uses those of the batch, somewhere in the image tower."""
        tower: Any = self.model.image_tower
        return not (tower is None or self.frozen_statistics or tower.locked == ALL)

    @property
    def locked(self) -> tuple[str, ...]:
        """What of the towers is locked."""
        image: Any = self.model.image_tower
        own = () if image is None else towers.locked_paths("image_tower", image.locked_parts)
        return own + towers.locked_paths("text_tower", self.model.text_tower.locked_parts)

    def functions(self) -> dict[str, Callable[[Params, ModelState, Batch], jax.Array]]:
        """Inference, with W the width of the stack and P the visual tokens of an image:

        image_tokens({"image"} or {"regions", "boxes", "region_mask"}): f32 [B, P, W + 1], embedded visual tokens; the
        last number is 1 where there is one and 0 where there is none. They do not depend on a text.
        score_tokens({"tokens", "text_ids", "text_mask"}): f32 [B], the logit that image and text belong together.
        score_pairs({.. of the image .., "text_ids", "text_mask"}): the same of both at once.
        """
        return {"image_tokens": self._tokens, "score_tokens": self._score, "score_pairs": self._score_pairs}

    def _tokens(self, params: Params, model_state: ModelState, inputs: Batch) -> jax.Array:
        visual, _ = self.see(params, model_state, inputs)
        found: Any = self.model.apply({"params": params, **model_state}, visual, method="tokens")
        tokens, present = found
        return jnp.concatenate([tokens.astype(jnp.float32), present[..., None].astype(jnp.float32)], axis=-1)

    def _score(self, params: Params, model_state: ModelState, inputs: Batch) -> jax.Array:
        tokens, present = inputs["tokens"][..., :-1], inputs["tokens"][..., -1] > 0
        found: Any = self.model.apply(
            {"params": params, **model_state}, tokens, present, inputs["text_ids"], inputs["text_mask"], method="score"
        )
        return found.astype(jnp.float32)

    def _score_pairs(self, params: Params, model_state: ModelState, inputs: Batch) -> jax.Array:
        tokens = self._tokens(params, model_state, inputs)
        return self._score(params, model_state, {**inputs, "tokens": tokens})

    def dummy_rows(self, rows: int) -> dict[str, np.ndarray]:
        """Random images and texts."""
        rng = np.random.default_rng(0)
        length = self.text_length
        texts = {
            "text_ids": rng.integers(0, self.vocab_size, (rows, length), np.int32),
            "text_mask": np.arange(length)[None, :] < rng.integers(3, length + 1, (rows, 1)),
        }
        if self.regions is None:
            side = self.image_size or 0
            return texts | {"image": rng.integers(0, 256, (rows, side, side, 3), np.uint8)}
        low = rng.uniform(0, 0.5, (rows, self.regions, 2))
        labels = rng.integers(0, max(self.model.classes, 1), (rows, self.regions), np.int32)
        return texts | {
            "regions": rng.normal(size=(rows, self.regions, self.model.region_width)).astype(np.float32),
            "boxes": np.concatenate([low, low + rng.uniform(0.1, 0.5, low.shape)], axis=-1).astype(np.float32),
            "region_mask": np.arange(self.regions)[None, :] < rng.integers(1, self.regions + 1, (rows, 1)),
            "region_labels": labels if self.model.classes else np.full_like(labels, -1),
        }


def build(
    *,
    text: Mapping[str, Any],
    image: Mapping[str, Any] | None = None,
    global_feature: bool = False,
    frozen_statistics: bool = False,
    micro_batches: int = 1,
    gather: str = "step",
    gradient_dtype: str | None = None,
    split: Sequence[SplitRule] = (),
    pixels: str = DEFAULT_PIXELS,
    dtype: str = "float32",
    param_dtype: str = "float32",
    heads: Mapping[str, Any],
    image_size: int | None,
    regions: Mapping[str, Any] | None,
    text_length: int,
    vocab_size: int,
) -> CrossEncoder:
    """The cross-encoder of `config.task`.

    Args:
      text: fields of Bert, the stack; `size` a published one. image: of EfficientNet, where the model sees pictures:
        its last map gives the visual tokens.
      global_feature: one more visual token, the mean of the others' features, with the box of the whole image.
      frozen_statistics, micro_batches, gather, gradient_dtype, split, pixels, dtype, param_dtype: as in `align.build`.
      heads: fields of ImageBert that say which heads there are.
      image_size (pixels), regions (`config.data.regions`), text_length and vocab_size (word pieces): as the data gives
        them.
    """
    if micro_batches < 1:
        raise AlignError(f"config.task.micro_batches: expected at least 1, found {micro_batches}")
    towers.one_of("gather", gather, towers.GATHER)
    towers.one_of("pixels", pixels, tuple(PIXELS))
    towers.one_of("gradient_dtype", gradient_dtype or param_dtype, towers.DTYPES)
    if (image is None) == (regions is None):
        found = "both" if image is not None else "neither"
        raise AlignError(
            f"config: expected one of task.image, for pictures, and data.regions, for stored regions, found {found}"
        )
    dtypes: dict[str, Any] = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    tower, width = None, 0 if regions is None else regions["width"]
    if image is not None:
        if image_size is None:
            raise AlignError(
                "config.data.crop: expected the pixels of the square that the image tower sees, found none"
            )
        tower = towers.image_tower(image, side=image_size, **dtypes)
        width = tower.features
    reader = towers.text_tower(text, vocab_size=vocab_size, **dtypes)
    positions = text_length + 2  # of [CLS], the regions, [SEP] and the other pieces
    if positions > reader.max_length:
        raise AlignError(
            f"config.data.text_length: expected at most {reader.max_length - 2} pieces, so that all have a position, "
            f"found {text_length}; shorten it or raise config.task.text.max_length"
        )
    model = ImageBert(
        text_tower=reader, image_tower=tower, global_feature=global_feature, param_dtype=dtypes["param_dtype"],
        region_width=width, **heads,
    )  # fmt: skip
    return CrossEncoder(
        model=model, vocab_size=vocab_size, text_length=text_length,
        image_size=None if tower is None else image_size,
        regions=None if regions is None else regions.get("most", 100),
        pixels=pixels, frozen_statistics=frozen_statistics, micro_batches=micro_batches, gather=gather,
        gradient_dtype=None if gradient_dtype is None else jnp.dtype(gradient_dtype), split=towers.split_rules(split),
    )  # fmt: skip


def given(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the keys of config.task, the sizes that config.data gives) of a whole config."""
    task = {key: value for key, value in config.task.to_dict().items() if key != "name"}
    for name in ("image", "text"):
        if task.get(name) is not None:
            task[name] = towers.as_frozen(task[name], f"{name}_tower", config.freeze)
    regions = config.data.get("regions")
    return task, {
        "image_size": config.data.get("crop"),
        "regions": None if regions is None else regions.to_dict(),
        "text_length": config.data.text_length,
        "vocab_size": config.data.vocab.size,
    }
