"""Two towers and a temperature (ALIGN, Jia et al. 2021, section 4.1): images and texts in one space of unit vectors."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from align_jax.models.randomness import fold

POOLINGS = ("cls", "mean")


class DualEncoder(nn.Module):
    """An image tower, a text tower, and linear projections to `embedding` dimensions.

    Parameters: `image_tower`, `text_tower`, `text_projection`, with `image_projection` an `image_projection_layer`, and
    the scalar `log_temperature`, whose exponential divides the cosines: the temperature stays positive whatever the
    optimizer does (design decision 11). With a `bias_init`, the scalar `bias` of the logits.
    """

    image_tower: nn.Module  # (images [B, H, W, 3], *, train, keys) -> features [B, C]
    text_tower: nn.Module  # (ids [B, L], mask [B, L], *, keys) -> hidden [B, L, width]; piece 0 is [CLS]
    embedding: int  # D; without image_projection the C of the image tower
    image_projection: bool = False  # the extra linear layer of ALIGN's ablations (section 6.1)
    temperature_init: float = 1.0
    bias_init: float | None = None  # of the logits of a sigmoid loss; None: no such parameter
    text_pooling: str = "cls"  # of POOLINGS: what stands for a text, the vector of [CLS] or the mean over its pieces
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.temperature_init <= 0:
            raise ValueError(f"temperature_init: expected a number above 0, found {self.temperature_init}")

        # In param_dtype, and so at least f32, even when the towers are bf16: one small product per row, and cosines
        # that are divided by 1/64 need the digits. Initialised as in Hugging Face's AlignModel.
        def projection() -> nn.Dense:
            return nn.Dense(
                self.embedding,
                dtype=self.param_dtype,
                param_dtype=self.param_dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                precision="highest",
            )

        self.text_projection = projection()
        # Linen keeps fields and submodules in one namespace, and `image_projection` is the field.
        self.image_projection_layer = projection() if self.image_projection else None
        self.log_temperature = self.param(
            "log_temperature", nn.initializers.constant(math.log(self.temperature_init)), (), self.param_dtype
        )
        if self.bias_init is not None:
            self.bias = self.param("bias", nn.initializers.constant(self.bias_init), (), self.param_dtype)

    def __call__(
        self, images: jax.Array, ids: jax.Array, mask: jax.Array, *, train: bool = False, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Pairs to (image embeddings [B, D], text embeddings [B, D])."""
        return self.embed_images(images, train=train, keys=keys), self.embed_texts(ids, mask, keys=keys)

    def embed_images(self, images: jax.Array, *, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        """images float [B, H, W, 3] -> unit vectors [B, D] of param_dtype.

        `train` makes BatchNorm use, and store in the collection `batch_stats`, the statistics of this batch; `keys`
        [B] turn on the tower's randomness.
        """
        return self.project_images(self.image_features(images, train=train, keys=keys))

    def project_images(self, features: jax.Array) -> jax.Array:
        """Pooled features [B, C] -> unit vectors [B, D] of param_dtype."""
        if self.image_projection_layer is not None:
            features = self.image_projection_layer(features)
        elif features.shape[-1] != self.embedding:
            raise ValueError(
                f"embedding: expected the {features.shape[-1]} features of the image tower, found {self.embedding}; "
                "set image_projection=True or change embedding"
            )
        return unit(features.astype(self.param_dtype))

    def embed_texts(self, ids: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """ids int32 [B, L], mask bool [B, L] -> unit vectors [B, D] of param_dtype."""
        return self.project_texts(self.text_features(ids, mask, keys=keys))

    def project_texts(self, features: jax.Array) -> jax.Array:
        """Pooled features [B, width] -> unit vectors [B, D] of param_dtype."""
        return unit(self.text_projection(features))

    def image_features(self, images: jax.Array, *, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        """images float [B, H, W, 3] -> pooled features [B, C] before any projection."""
        return self.image_tower(images, train=train, keys=fold(keys, 0))

    def text_features(self, ids: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """ids int32 [B, L], mask bool [B, L] -> pooled features [B, width] before the projection."""
        hidden = self.text_tower(ids, mask, keys=fold(keys, 1))
        if self.text_pooling == "cls":
            return hidden[:, 0]
        kept = mask.astype(self.param_dtype)[..., None]
        return (hidden.astype(self.param_dtype) * kept).sum(1) / kept.sum(1)


def unit(x: jax.Array) -> jax.Array:
    """x [B, D] divided by its length; a zero vector stays zero and passes no nan back."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
