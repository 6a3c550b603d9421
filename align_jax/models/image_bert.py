"""ImageBERT: one stack over image and text (Qi et al. 2020, arXiv 2001.07966, section 4.1; facts: ImageBERT section 1).

A sequence is [CLS] visual tokens [SEP] words [SEP]. Positions are 0 for [CLS], 1 for every visual token, for they have
no order, 2 for the first [SEP] and 3, 4, .. for the words; the segment is A up to the first [SEP] and B after it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from align_jax.models.bert import INIT, Bert, LayerNorm
from align_jax.models.randomness import dropout, fold

VISUAL_POSITION = 1
WHOLE = (0.0, 0.0, 1.0, 1.0)  # the box of the image


class Visual(NamedTuple):
    """What a cross-encoder sees of images, before any layer of its own."""

    features: jax.Array  # f32 [B, R, F]
    boxes: jax.Array  # f32 [B, R, 4]: left, top, right, bottom, as shares of the image
    present: jax.Array  # bool [B, R]


class Outputs(NamedTuple):
    """What the heads say; None of a head that is not there."""

    match: jax.Array  # [B]: the logit that image and text belong together
    words: jax.Array | None  # [B, M, V] logits
    classes: jax.Array | None  # [B, R, C] logits
    features: jax.Array | None  # [B, R, F]


class ImageBert(nn.Module):
    """The cross-encoder with the heads of its pre-training tasks.

    Parameters: `text_tower`, the stack with its tables; `image_tower` where the visual tokens are the cells of its last
    map; `region_projection`, `box_projection` and `region_norm`, which make tokens; `word_transform`, `word_norm` and
    `word_bias`, BERT's head of masked words, tied to the table; `class_head`, `feature_head` and `match_head`, each one
    layer. A head whose task has no weight has no parameters.
    """

    text_tower: Bert
    image_tower: nn.Module | None  # (images [B, H, W, 3], *, train, keys) -> `feature_map` [B, h, w, F]
    region_width: int  # F
    classes: int = 0  # C of the class head; 0: none
    global_feature: bool = False  # one more token, the mean of the visible features with the box of the image
    words: bool = True  # whether there is a head of masked words
    features: bool = True  # whether there is a head of masked features
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        tower = self.text_tower
        types: dict[str, Any] = {"dtype": tower.dtype, "param_dtype": self.param_dtype}

        def dense(width: int, **own: Any) -> nn.Dense:
            return nn.Dense(width, kernel_init=INIT, **{**types, **own})

        self.region_projection, self.box_projection = dense(tower.width), dense(tower.width)
        self.region_norm = LayerNorm(tower.epsilon, **types)
        if self.words:
            self.word_transform, self.word_norm = dense(tower.width), LayerNorm(tower.epsilon, **types)
            self.word_bias = self.param("word_bias", nn.initializers.zeros, (tower.vocab_size,), self.param_dtype)
        # Logits, scores and what is compared with features: in param_dtype, and so at least f32.
        if self.classes:
            self.class_head = dense(self.classes, dtype=self.param_dtype)
        if self.features:
            self.feature_head = dense(self.region_width, dtype=self.param_dtype)
        self.match_head = dense(1, dtype=self.param_dtype)

    def __call__(
        self, inputs: Mapping[str, jax.Array], ids: jax.Array, mask: jax.Array, word_positions: jax.Array
    ) -> Outputs:
        """`see` and `predict`, in inference."""
        return self.predict(self.see(inputs), ids, mask, word_positions)

    def see(self, inputs: Mapping[str, jax.Array], *, train: bool = False, keys: jax.Array | None = None) -> Visual:
        """{"regions", "boxes", "region_mask"}: as `Visual` has them; or {"image": float [B, H, W, 3]}: the cells of the
        image tower's last map, row by row, each with the box that it covers. `train`, `keys`: the tower's.
        """
        if self.image_tower is None:
            regions = inputs["regions"].astype(self.param_dtype)
            return Visual(regions, inputs["boxes"].astype(self.param_dtype), inputs["region_mask"])
        found: Any = self.image_tower.feature_map(inputs["image"], train=train, keys=keys)
        rows, height, width, channels = found.shape
        features = found.reshape(rows, height * width, channels).astype(self.param_dtype)
        boxes = jnp.broadcast_to(cell_boxes(height, width, self.param_dtype)[None], (rows, height * width, 4))
        return Visual(features, boxes, jnp.ones(features.shape[:2], bool))

    def predict(
        self, visual: Visual, ids: jax.Array, mask: jax.Array, word_positions: jax.Array, *,
        zeroed: jax.Array | None = None, keys: jax.Array | None = None,
    ) -> Outputs:  # fmt: skip
        """All heads on image and text together.

        ids int32 [B, L] and mask bool [B, L] as for `Bert`, word_positions int [B, M]: the words to predict, by their
        places in ids; zeroed bool [B, R]: regions whose features are hidden. `keys` [B] turn dropout on.
        """
        tokens, present = self.tokens(visual, zeroed=zeroed, keys=fold(keys, 0))
        hidden = self.join(tokens, present, ids, mask, keys=fold(keys, 1))
        regions = hidden[:, 1 : visual.features.shape[1] + 1]
        words = None
        if self.words:  # the first of ids stands before the tokens, the others after one more place
            places = jnp.where(word_positions > 0, word_positions + tokens.shape[1] + 1, 0)
            words = self.word_logits(jnp.take_along_axis(hidden, places[..., None], axis=1))
        return Outputs(
            self.match(hidden),
            words,
            self.class_head(regions) if self.classes else None,
            self.feature_head(regions) if self.features else None,
        )

    def tokens(
        self, visual: Visual, *, zeroed: jax.Array | None = None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Visual tokens [B, P, width], and which are present, bool [B, P].

        The features of `zeroed`, bool [B, R], are hidden; their boxes stay. P is R, or R + 1 with the global feature.
        """
        features, boxes, present = visual
        if zeroed is not None:
            features = jnp.where(zeroed[..., None], 0.0, features)
        if self.global_feature:
            kept = present[..., None].astype(features.dtype)
            mean = (features * kept).sum(1, keepdims=True) / jnp.maximum(kept.sum(1, keepdims=True), 1.0)
            whole = jnp.broadcast_to(jnp.asarray(WHOLE, boxes.dtype)[None, None], (boxes.shape[0], 1, 4))
            features = jnp.concatenate([features, mean], axis=1)
            boxes = jnp.concatenate([boxes, whole], axis=1)
            present = jnp.concatenate([present, present.any(1, keepdims=True)], axis=1)
        place = self.text_tower.place(jnp.full((1, 1), VISUAL_POSITION), 0)
        x = self.region_projection(features) + self.box_projection(geometry(boxes))
        x = self.region_norm(x.astype(self.param_dtype) + place)
        return dropout(x, self.text_tower.dropout, keys), present

    def join(
        self, tokens: jax.Array, present: jax.Array, ids: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None
    ) -> jax.Array:
        """tokens [B, P, width], present [B, P], ids int [B, L] ([CLS] words [SEP]), mask [B, L] -> hidden
        [B, P + L + 1, width].

        Places 0: [CLS]; 1 .. P: the tokens; P + 1: [SEP]; P + 2 ..: the words from the first on.
        """
        last = jnp.take_along_axis(ids, mask.sum(1, keepdims=True).astype(jnp.int32) - 1, axis=1)  # [SEP]
        embed = self.text_tower.embed
        first = embed(ids[:, :1], keys=fold(keys, 0))
        middle = embed(last, first=VISUAL_POSITION + 1, keys=fold(keys, 1))
        words = embed(ids[:, 1:], first=VISUAL_POSITION + 2, segment=1, keys=fold(keys, 2))
        x = jnp.concatenate([first, tokens.astype(first.dtype), middle, words], axis=1)
        one = jnp.ones((ids.shape[0], 1), bool)
        seen = jnp.concatenate([one, present, one, mask[:, 1:].astype(bool)], axis=1)
        return self.text_tower.encode(x, seen, keys=fold(keys, 3))

    def score(
        self, tokens: jax.Array, present: jax.Array, ids: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None
    ) -> jax.Array:
        """The logit [B] that image and text belong together, of tokens as `tokens` makes them; else as `join`."""
        return self.match(self.join(tokens, present, ids, mask, keys=keys))

    def match(self, hidden: jax.Array) -> jax.Array:
        """hidden [B, S, width] -> the logit [B] that image and text belong together, from [CLS]."""
        return self.match_head(hidden[:, 0])[:, 0]

    def word_logits(self, hidden: jax.Array) -> jax.Array:
        """hidden [B, M, width] of masked words -> logits [B, M, V]."""
        x = nn.gelu(self.word_transform(hidden), approximate=False)
        return self.text_tower.word_logits(self.word_norm(x)) + self.word_bias[None, None]


def geometry(boxes: jax.Array) -> jax.Array:
    """boxes [B, R, 4], corners as shares of the image -> [B, R, 5]: the corners, and the share of its area."""
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return jnp.concatenate([boxes, area[..., None]], axis=-1)


def cell_boxes(height: int, width: int, dtype: Any) -> jax.Array:
    """[height * width, 4]: the boxes of the cells of a map, row by row."""
    top, left = jnp.meshgrid(jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij")
    corners = (left / width, top / height, (left + 1) / width, (top + 1) / height)
    return jnp.stack([corner.reshape(-1) for corner in corners], axis=-1)
