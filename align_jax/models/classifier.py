"""An image tower with a linear head: what ALIGN's is fine-tuned as (Jia et al. 2021, section 5.3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from align_jax.models.dual_encoder import unit
from align_jax.models.randomness import dropout

# Uniform within 1 / sqrt(classes), as the head of tensorflow/tpu's EfficientNet.
head_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Classifier(nn.Module):
    """Images [B, H, W, 3] to logits [B, C]. Parameters: `image_tower` and `head`.

    `dropout` is the share of the features that the head does not see in training.
    """

    image_tower: nn.Module  # (images [B, H, W, 3], *, train, keys) -> features [B, D]
    classes: int  # C
    dropout: float = 0.0
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        # In param_dtype whatever the tower computes in, as the projections of the dual encoder.
        self.head = nn.Dense(
            self.classes, dtype=self.param_dtype, param_dtype=self.param_dtype, kernel_init=head_init,
            precision="highest",
        )  # fmt: skip

    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        tower_keys: jax.Array | None = None,
        head_keys: jax.Array | None = None,
    ) -> jax.Array:
        """images float [B, H, W, 3] -> logits of param_dtype.

        `train` makes BatchNorm use, and store, the statistics of this batch; `tower_keys` [B] turn on the tower's
        randomness, stochastic depth, and `head_keys` dropout.
        """
        return self.head(dropout(self.image_features(images, train=train, keys=tower_keys), self.dropout, head_keys))

    def image_features(self, images: jax.Array, *, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        """images float [B, H, W, 3] -> pooled features [B, D] of param_dtype."""
        return self.image_tower(images, train=train, keys=keys).astype(self.param_dtype)

    def embed_images(self, images: jax.Array) -> jax.Array:
        """images float [B, H, W, 3] -> features of unit length."""
        return unit(self.image_features(images))
