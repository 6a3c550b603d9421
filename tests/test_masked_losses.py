"""The losses of pre-training: by hand on a worked example, and against numpy with gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.losses import masked

RNG = np.random.default_rng(0)
COUNTED = np.array([True, False, True, True])
HIDDEN = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
LABELS = np.array([[4, -1, 0], [2, 2, 1], [-1, -1, -1], [1, 3, 0]])
LOGITS = RNG.normal(size=(4, 3, 5))
FEATURES = RNG.normal(size=(4, 3, 5))
TARGET = np.exp(FEATURES) / np.exp(FEATURES).sum(-1, keepdims=True)
TARGET[0, 2] = 0  # its class is not known
MATCH = np.array([True, False, False, True])


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def words(x):
    there = (LABELS >= 0) & COUNTED[:, None]
    return -sum(log_softmax(x)[b, i, LABELS[b, i]] for b, i in np.argwhere(there)), there.sum()


def classes(x):
    there = (LABELS >= 0) & HIDDEN & COUNTED[:, None]
    return -sum(log_softmax(x)[b, i, LABELS[b, i]] for b, i in np.argwhere(there)), there.sum()


def distributions(x):
    there = HIDDEN & COUNTED[:, None] & (TARGET > 0).all(-1)
    return sum((TARGET[b, i] * (np.log(TARGET[b, i]) - log_softmax(x)[b, i])).sum() for b, i in np.argwhere(there)), 2


def features(x):
    return sum(((x[b, i] - FEATURES[b, i]) ** 2).sum() for b, i in np.argwhere(HIDDEN & COUNTED[:, None])), 3


def numbers(x):
    return features(x)[0] / 5, 3


def matching(x):
    score = x[:, 0, 0]
    right = 1 / (1 + np.exp(-score))
    return -np.where(MATCH, np.log(right), np.log(1 - right)).sum(), 4


CASES = {
    "words": (words, lambda x: masked.masked_words(x, LABELS, COUNTED)[0]),
    "classes": (classes, lambda x: masked.masked_classes(x, LABELS, HIDDEN, COUNTED)[0]),
    "distributions": (distributions, lambda x: masked.masked_distributions(x, TARGET, HIDDEN, COUNTED)[0]),
    "features": (features, lambda x: masked.masked_features(x, FEATURES, HIDDEN, COUNTED, over="regions")),
    "numbers": (numbers, lambda x: masked.masked_features(x, FEATURES, HIDDEN, COUNTED, over="numbers")),
    "matching": (matching, lambda x: masked.matching(x[:, 0, 0], MATCH)[0]),
}


@pytest.mark.parametrize("name", CASES)
def test_value_count_and_gradient(name):
    expected, found = CASES[name]
    with jax.enable_x64(True):
        value, count = found(jnp.asarray(LOGITS))
        gradient = np.asarray(jax.grad(lambda x: found(x).total)(jnp.asarray(LOGITS)))
    total, number = expected(LOGITS)
    assert int(count) == number
    np.testing.assert_allclose(float(value), total, rtol=1e-6)
    step = 1e-6
    for place in np.ndindex(LOGITS.shape):
        shift = np.zeros_like(LOGITS)
        shift[place] = step
        slope = (expected(LOGITS + shift)[0] - expected(LOGITS - shift)[0]) / (2 * step)
        np.testing.assert_allclose(gradient[place], slope, atol=1e-6)


def test_a_worked_example():
    """Two rows, the first a pair. Of its words, one of four equally likely is right, and one is certain."""
    logits = jnp.log(jnp.asarray([[[1.0, 1, 1, 1], [1e9, 1, 1, 1]]] * 2))
    counted = jnp.asarray([True, False])
    loss, accuracy = masked.masked_words(logits, jnp.asarray([[2, 0]] * 2), counted)
    assert loss.count == 2 and accuracy.compute() == 0.5
    np.testing.assert_allclose(loss.compute(), np.log(4) / 2, rtol=1e-5)
    # A region whose feature is (3, 4) away from what was said: 25 a region, 12.5 a number.
    said, hidden = jnp.zeros((2, 1, 2)), jnp.ones((2, 1), bool)
    there = jnp.asarray([[[3.0, 4.0]]] * 2)
    assert masked.masked_features(said, there, hidden, counted, over="regions").compute() == 25.0
    assert masked.masked_features(said, there, hidden, counted, over="numbers").compute() == 12.5
    # Scores of 0 say nothing: log 2 each.
    loss, _ = masked.matching(jnp.zeros(2), counted)
    np.testing.assert_allclose(loss.compute(), np.log(2), rtol=1e-6)


def test_nothing_to_predict_is_nothing():
    """And no nan in the gradient."""
    nothing = jnp.zeros((4, 3), bool)
    for loss in (
        lambda x: masked.masked_words(x, jnp.full((4, 3), -1), COUNTED)[0],
        lambda x: masked.masked_distributions(x, jnp.zeros((4, 3, 5)), nothing, COUNTED)[0],
        lambda x: masked.masked_features(x, jnp.zeros((4, 3, 5)), nothing, COUNTED, over="regions"),
    ):
        logits = jnp.asarray(LOGITS, jnp.float32)
        assert loss(logits).total == 0 and loss(logits).count == 0
        assert np.isfinite(jax.grad(lambda x, loss=loss: loss(x).total)(logits)).all()
