"""BERT (Devlin et al. 2019, section 3 and appendix A.2): a stack of post-norm transformer layers over word pieces.

`Bert` is also the stack of a single-stream cross-encoder: `embed` turns word pieces into vectors, `encode` runs the
layers over any sequence of vectors, words and image tokens alike.

Dropout is on exactly when row keys are given (models/randomness.py); there is no train flag to disagree with them.
"""

from typing import Any, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from align_jax.models import remat
from align_jax.models.blocks import ALL, chain
from align_jax.models.randomness import dropout, fold


class Size(TypedDict):
    """The fields of `Bert` that its published sizes set."""

    layers: int
    width: int
    heads: int
    mlp_width: int


# Turc et al. 2019 (tiny to medium) and Devlin et al. 2019: heads of 64 channels, MLPs four times as wide.
SIZES: dict[str, Size] = {
    name: {"layers": layers, "width": width, "heads": width // 64, "mlp_width": 4 * width}
    for name, layers, width in [
        ("tiny", 2, 128),
        ("mini", 4, 256),
        ("small", 4, 512),
        ("medium", 8, 512),
        ("base", 12, 768),
        ("large", 24, 1024),
    ]
}

NAMED = ("attention", "mlp")  # a layer's mixed values, and the inside of its MLP
INIT = nn.initializers.normal(0.02)


class LayerNorm(nn.Module):
    """x [B, P, width], centred and scaled along width in param_dtype whatever the dtype of x -> [B, P, width].

    Not Flax's own, which refuses bf16 when implicit promotions are forbidden. The variance is the mean of squared
    deviations: the shorter E[x^2] - E[x]^2 cancels, and an epsilon of 1e-12 hides nothing.
    """

    epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        x = x.astype(self.param_dtype)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (x * scale[None, None] + bias[None, None]).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention: x [B, P, width], mask [B, P] (True: may be attended to) -> [B, P, width]."""

    width: int
    heads: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, keys: jax.Array | None) -> jax.Array:
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads={self.heads}, found {self.width}")

        def dense(name: str) -> nn.Dense:
            return nn.Dense(self.width, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=INIT, name=name)

        rows, length, _ = x.shape
        split = (rows, length, self.heads, self.width // self.heads)
        query, key, value = (dense(name)(x).reshape(split) for name in ("query", "key", "value"))
        # The softmax is in param_dtype even when the layers are bf16, whose eight bits cannot hold a sum of P weights.
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=self.param_dtype)
        logits = logits * split[-1] ** -0.5
        # The lowest finite number, not -inf: a row that is all padding then gives a mean instead of nan.
        logits = jnp.where(mask.astype(bool)[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
        weights = dropout(jax.nn.softmax(logits), self.dropout, keys).astype(self.dtype)
        mixed = remat.named(jnp.einsum("bhqk,bkhd->bqhd", weights, value), "attention")
        return dense("output")(mixed.reshape(x.shape))


class Layer(nn.Module):
    """One post-norm transformer layer: x [B, P, width], mask [B, P] -> [B, P, width]."""

    width: int
    heads: int
    mlp_width: int
    dropout: float
    attention_dropout: float
    dtype: Any
    param_dtype: Any
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, keys: jax.Array | None) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = Attention(self.width, self.heads, self.attention_dropout, **types, name="attention")
        branch = dropout(attention(x, mask, keys=fold(keys, 0)), self.dropout, fold(keys, 1))
        x = LayerNorm(self.epsilon, **types, name="attention_norm")(x + branch)
        hidden = remat.named(nn.Dense(self.mlp_width, kernel_init=INIT, **types, name="mlp_in")(x), "mlp")
        branch = nn.Dense(self.width, kernel_init=INIT, **types, name="mlp_out")(nn.gelu(hidden, approximate=False))
        return LayerNorm(self.epsilon, **types, name="mlp_norm")(x + dropout(branch, self.dropout, fold(keys, 2)))


class Bert(nn.Module):
    """Word pieces to vectors; the vector of [CLS] is `hidden[:, 0]` (no pooler, facts/align.md section 1)."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    mlp_width: int
    max_length: int = 512
    position_offset: int = (
        0  # rows of the position table before the first piece's: 2 in RoBERTa, which skips its padding
    )
    type_vocab: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    remat: str | tuple[str, ...] = "none"  # what the backward pass keeps: all, the layers' inputs ("block"), or `NAMED`
    scan: bool = False  # equal layers are one loop, for compilation; see `chain`
    dtype: Any = jnp.float32  # of the layers; LayerNorm and the softmax compute in param_dtype
    param_dtype: Any = jnp.float32
    epsilon: float = 1e-12
    # The embeddings and that many first layers (`ALL`: every one) are as in inference, and pass no gradient.
    locked: int = 0

    def setup(self) -> None:
        # Looked up in param_dtype: the gradient of a lookup adds up all rows that share a word ([CLS]: every row of the
        # batch), and a bf16 sum would stop growing after a few hundred.
        def table(entries: int) -> nn.Embed:
            return nn.Embed(
                entries, self.width, embedding_init=INIT, dtype=self.param_dtype, param_dtype=self.param_dtype
            )

        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.word_embedding = table(self.vocab_size)
        self.position_embedding = table(self.position_offset + self.max_length)
        self.type_embedding = table(self.type_vocab)
        self.embedding_norm = LayerNorm(self.epsilon, **types)
        self.layer = [
            Layer(
                self.width,
                self.heads,
                self.mlp_width,
                self.dropout,
                self.attention_dropout,
                **types,
                epsilon=self.epsilon,
            )
            for _ in range(self.layers)
        ]

    def __call__(self, ids: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """ids int32 [B, L], mask bool or int [B, L] (True: a piece, False: padding) -> hidden [B, L, width]."""
        return self.encode(self.embed(ids, keys=fold(keys, 0)), mask, keys=fold(keys, 1))

    def embed(self, ids: jax.Array, *, first: int = 0, segment: int = 0, keys: jax.Array | None = None) -> jax.Array:
        """Word plus position plus type embeddings of ids [B, L], normalised -> [B, L, width].

        `first` is the position of the first piece, `segment` the type of all.
        """
        last = first + ids.shape[1]
        if last > self.max_length:
            raise ValueError(f"text length: expected at most max_length={self.max_length} positions, found {last}")
        x = self.embedding_norm(self.word_embedding(ids) + self.place(jnp.arange(first, last)[None], segment))
        return jax.lax.stop_gradient(x) if self.locked else dropout(x, self.dropout, keys)

    def place(self, positions: jax.Array, segment: int) -> jax.Array:
        """What says where a token stands: position plus type embeddings, of positions int [1, P] -> [1, P, width]."""
        x = self.position_embedding(positions + self.position_offset)
        x = x + self.type_embedding(jnp.full((1, 1), segment, jnp.int32))
        return jax.lax.stop_gradient(x) if self.locked else x

    def word_logits(self, x: jax.Array) -> jax.Array:
        """x [B, M, width] against the table of words -> [B, M, vocab_size] in param_dtype."""
        table = self.word_embedding.embedding.astype(self.dtype)
        return jnp.einsum("bmw,vw->bmv", x, table, preferred_element_type=self.param_dtype)

    def encode(self, x: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """The layers alone: x [B, P, width], mask [B, P] -> [B, P, width]."""

        def call(layer: Layer, x: jax.Array, site: int | jax.Array) -> jax.Array:
            return layer(x, mask, keys=fold(keys, site))

        def as_locked(layer: Layer, x: jax.Array, site: int | jax.Array) -> jax.Array:
            return layer(x, mask, keys=None)

        sites = list(range(self.layers))
        locked = self.layers if self.locked == ALL else self.locked
        if locked:
            x = chain(as_locked, self.layer[:locked], x, sites[:locked], policy="none", scan=self.scan)
            x = jax.lax.stop_gradient(x)
        if locked < self.layers:
            x = chain(call, self.layer[locked:], x, sites[locked:], policy=self.remat, scan=self.scan)
        return x

    @property
    def locked_parts(self) -> tuple[str, ...]:
        """Patterns of the paths of what is locked."""
        layers = tuple(f"layer_{index}" for index in range(self.locked))
        return ("*",) if self.locked == ALL else ("*embedding*", *layers) if layers else ()
