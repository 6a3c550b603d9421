"""The contrastive losses: their forms against a plain numpy reference, and what they may hold in memory."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import sharding
from align_jax.losses.contrastive import FORMS, contrastive_loss

HERE = Path(__file__).parent


def prove(script):
    """Runs a script in a process of its own, since float64 is a setting of the whole process."""
    done = subprocess.run([sys.executable, str(HERE / script)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_form_equals_the_reference():
    """Values, hits and all gradients: float64 to 1e-9, f32 to 5e-5, uneven blocks, on 1, 2 and 8 devices."""
    assert "float64 losses and gradients agree" in prove("prove_losses.py")


def test_a_whole_step_is_the_same_on_one_and_eight_devices():
    """And in 4 and 8 micro-batches: float64 to 1e-9 of the largest gradient, dropout on."""
    assert "float64 loss and gradients agree" in prove("prove_step.py")


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_says_the_same_of_all_hits_nothing(form):
    same = jnp.ones((8, 4)) / 2.0
    parts = contrastive_loss(same, same, jnp.float32(1.0), form=form, block=3)
    assert parts.image_to_text.compute() == parts.text_to_image.compute() == 0.0
    np.testing.assert_allclose(parts.loss.compute(), 2 * np.log(8), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_logits_of_thousands_do_not_overflow(form, factor):
    """At temperature 1e-4, where exp(logit) is no number: pairs that fit, and pairs that do not."""
    rows = jnp.eye(8)

    def loss(image):
        parts = contrastive_loss(image, rows, jnp.float32(1e-4), label_smoothing=0.1, form=form, block=3)
        return parts.loss.total

    value, gradient = jax.value_and_grad(loss)(factor * rows)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@functools.cache
def bytes_of(form: str) -> int:
    """Temporary memory a device needs for values and gradients of 4,096 pairs on 8 devices, as XLA plans it."""
    rows, width = 4096, 16
    mesh = sharding.make_mesh()
    vectors = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=sharding.by_row(mesh))

    def loss(image, text, temperature):
        def here(temperature, both):
            parts = contrastive_loss(*both, temperature, form=form, block=64, axis_names=sharding.AXES)
            return (), sharding.total(parts)

        parts = sharding.per_device(here)(temperature, (image, text))[1]
        return parts.loss.total / parts.loss.count

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(vectors, vectors, jnp.float32(0.1))
    return step.compile().memory_analysis().temp_size_in_bytes


def test_streamed_and_ring_never_hold_all_logits():
    logits = 4 * 512 * 4096
    assert bytes_of("dense") > logits
    # Streamed: both gathered sides, and blocks of 512 x 64; ring: rows of its own, and tiles of 64 x 64.
    assert bytes_of("streamed") < 2 * 4 * 4096 * 16 + 8 * 4 * 512 * 64
    assert bytes_of("ring") < 20 * 4 * 512 * 16 + 8 * 4 * 64 * 64
