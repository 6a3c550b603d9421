"""What a query's logits are held against, written so that its candidates may come in blocks.

The loss of a query needs a few sums over its candidates and nothing else, and the sums over two blocks of candidates
merge into those over both. So the loss over N candidates never needs N logits at once, nor does its gradient (online
softmax: Milakov & Gimelshein 2018, arXiv 1805.02867; for this loss: Cheng et al. 2024, arXiv 2410.17243).

Everywhere: logits, allowed, positive are [B, M], of B queries and M candidates; sums and losses [B].
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp


class Sums(Protocol):
    """Sums over the candidates that each query has met."""

    def merge(self, other: Self) -> Self:
        """The sums over the candidates of both."""
        ...


class Objective(Protocol):
    """A loss that sums build up."""

    def sums(self, logits: jax.Array, allowed: jax.Array, positive: jax.Array) -> Any:
        """Over a block of candidates."""
        ...

    def losses(self, sums: Any) -> jax.Array:
        """From the sums over all candidates."""
        ...

    def norms(self, sums: Any) -> Any:
        """What `gradients` needs to know of all candidates, as arrays [B]."""
        ...

    def gradients(self, logits: jax.Array, allowed: jax.Array, positive: jax.Array, norms: Any) -> jax.Array:
        """d losses / d logits."""
        ...


class Best(NamedTuple):
    """The largest logits met so far."""

    positive: jax.Array
    negative: jax.Array

    def merge(self, other: "Best") -> "Best":
        """The larger of both."""
        return Best(jnp.maximum(self.positive, other.positive), jnp.maximum(self.negative, other.negative))

    def hits(self) -> jax.Array:
        """1 where a positive scores highest, else 0. A tie is a miss."""
        return (self.positive > self.negative).astype(self.positive.dtype)


class SoftmaxSums(NamedTuple):
    """Of the cross-entropy."""

    peak: jax.Array  # the largest logit
    weight: jax.Array  # sum of exp(logit - peak)
    positives: jax.Array  # sum of the positives' logits
    positive_count: jax.Array
    logits: jax.Array  # sum of all logits
    candidates: jax.Array
    best: Best

    def merge(self, other: "SoftmaxSums") -> "SoftmaxSums":
        """Both weights brought to the larger peak."""
        peak = jnp.maximum(self.peak, other.peak)
        weight = self.weight * jnp.exp(self.peak - peak) + other.weight * jnp.exp(other.peak - peak)
        return SoftmaxSums(
            peak,
            weight,
            self.positives + other.positives,
            self.positive_count + other.positive_count,
            self.logits + other.logits,
            self.candidates + other.candidates,
            self.best.merge(other.best),
        )


class SoftmaxNorms(NamedTuple):
    """Of the cross-entropy's gradient."""

    log_weight: jax.Array  # log of the sum of exp(logit)
    positive_count: jax.Array
    candidates: jax.Array


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Cross-entropy against (1 - smoothing) spread over the positives plus `smoothing` spread over all candidates."""

    smoothing: float = 0.0

    def sums(self, logits: jax.Array, allowed: jax.Array, positive: jax.Array) -> SoftmaxSums:
        """Over a block of candidates."""
        # The mask comes before the exponential: where that would overflow, the gradient of a `where` around it is nan.
        masked = jnp.where(allowed, logits, _low(logits))
        peak = jax.lax.stop_gradient(masked.max(1))
        return SoftmaxSums(
            peak=peak,
            weight=jnp.where(allowed, jnp.exp(masked - peak[:, None]), 0).sum(1),
            positives=jnp.where(positive, logits, 0).sum(1),
            positive_count=positive.sum(1, dtype=logits.dtype),
            logits=jnp.where(allowed, logits, 0).sum(1),
            candidates=allowed.sum(1, dtype=logits.dtype),
            best=_best(logits, allowed, positive),
        )

    def losses(self, sums: SoftmaxSums) -> jax.Array:
        """Cross-entropy of each query."""
        positive, mean = sums.positives / sums.positive_count, sums.logits / sums.candidates
        return self.norms(sums).log_weight - (1.0 - self.smoothing) * positive - self.smoothing * mean

    def norms(self, sums: SoftmaxSums) -> SoftmaxNorms:
        """From the sums over all candidates."""
        return SoftmaxNorms(sums.peak + jnp.log(sums.weight), sums.positive_count, sums.candidates)

    def gradients(self, logits: jax.Array, allowed: jax.Array, positive: jax.Array, norms: SoftmaxNorms) -> jax.Array:
        """Probability minus target."""
        log_weight, positive_count, count = (norm[:, None] for norm in norms)
        probability = jnp.where(allowed, jnp.exp(logits - log_weight), 0)
        target = jnp.where(positive, (1.0 - self.smoothing) / positive_count, 0)
        return probability - target - jnp.where(allowed, self.smoothing / count, 0)


class SigmoidSums(NamedTuple):
    """Of the sigmoid loss."""

    total: jax.Array
    best: Best

    def merge(self, other: "SigmoidSums") -> "SigmoidSums":
        """Added up."""
        return SigmoidSums(self.total + other.total, self.best.merge(other.best))


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Every pair by itself, -log sigmoid(+-logit) (Zhai et al. 2023, arXiv 2303.15343, section 3.2).

    A pair is met once from its image and once from its text; each takes half.
    """

    def sums(self, logits: jax.Array, allowed: jax.Array, positive: jax.Array) -> SigmoidSums:
        """Over a block of candidates."""
        pairs = 0.5 * jax.nn.softplus(jnp.where(positive, -logits, logits))
        return SigmoidSums(jnp.where(allowed, pairs, 0).sum(1), _best(logits, allowed, positive))

    def losses(self, sums: SigmoidSums) -> jax.Array:
        """The sum over all candidates."""
        return sums.total

    def norms(self, sums: SigmoidSums) -> tuple[()]:
        """A pair needs to know of no other."""
        return ()

    def gradients(self, logits: jax.Array, allowed: jax.Array, positive: jax.Array, norms: tuple[()]) -> jax.Array:
        """Half of sigmoid minus target."""
        return jnp.where(allowed, 0.5 * (jax.nn.sigmoid(logits) - positive.astype(logits.dtype)), 0)


def _best(logits: jax.Array, allowed: jax.Array, positive: jax.Array) -> Best:
    logits, low = jax.lax.stop_gradient(logits), _low(logits)
    return Best(jnp.where(positive, logits, low).max(1), jnp.where(allowed & ~positive, logits, low).max(1))


def _low(like: jax.Array) -> jax.Array:
    return jnp.asarray(jnp.finfo(like.dtype).min / 2, like.dtype)  # the difference of two is still finite
