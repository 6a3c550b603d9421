"""The contrastive loss against a plain numpy reference, on one device and on eight."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import sharding
from align_jax.losses.contrastive import contrastive_loss


def reference(image, text, temperature, smoothing, kept):
    """Equations 1 and 2 of the paper with the smoothed target written out, row by row."""
    total = 0.0
    n = len(image)
    for queries, candidates in ((image, text), (text, image)):
        for i in range(n):
            columns = [(i + d) % n for d in range(kept)]
            logits = candidates[columns] @ queries[i] / temperature
            log_p = logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()
            target = np.full(kept, smoothing / kept)
            target[0] += 1.0 - smoothing
            total -= target @ log_p / n
    return total


def units(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("smoothing", "negatives", "kept"), [(0.0, 1.0, 16), (0.1, 1.0, 16), (0.1, 0.5, 9)])
def test_equals_the_reference(smoothing, negatives, kept):
    image, text = units(16, 8, 0), units(16, 8, 1)
    parts = contrastive_loss(
        jnp.asarray(image), jnp.asarray(text), jnp.float32(0.05), label_smoothing=smoothing, negatives=negatives
    )
    expected = reference(image.astype(np.float64), text.astype(np.float64), 0.05, smoothing, kept)
    np.testing.assert_allclose(parts.loss.compute(), expected, rtol=1e-5)


def test_a_model_that_says_the_same_of_all_hits_nothing():
    same = jnp.ones((8, 4)) / 2.0
    parts = contrastive_loss(same, same, jnp.float32(1.0))
    assert parts.image_to_text.compute() == parts.text_to_image.compute() == 0.0
    np.testing.assert_allclose(parts.loss.compute(), 2 * np.log(8), rtol=1e-6)


@pytest.mark.parametrize("negatives", [1.0, 0.25])
def test_eight_devices_equal_one(negatives):
    image, text = units(32, 8, 2), units(32, 8, 3)

    def value(devices):
        with jax.set_mesh(sharding.make_mesh(devices=devices)):

            def loss(image, text, temperature):
                def rows(temperature, both):
                    parts = contrastive_loss(
                        *both, temperature, label_smoothing=0.1, negatives=negatives, axis_names=sharding.AXES
                    )
                    return (), sharding.total(parts)

                parts = sharding.per_device(rows)(temperature, (image, text))[1]
                return parts.loss.total / parts.loss.count

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(image, text, jnp.float32(0.07))

    for one, eight in zip(jax.tree.leaves(value(1)), jax.tree.leaves(value(8)), strict=True):
        np.testing.assert_allclose(eight, one, atol=5e-5 * float(np.abs(one).max()))


def test_a_whole_step_is_the_same_on_one_and_eight_devices():
    """float64 to 1e-9, f32 to 5e-5 of the largest gradient, dropout on; float64 needs a process of its own."""
    script = Path(__file__).parent / "prove_step.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float64 loss and gradients agree" in done.stdout
