"""All forms of the contrastive losses in float64 and f32 against plain numpy: run by test_losses.py.

A process of its own, since float64 is a setting of the whole process. With --all every case on every mesh in both
dtypes (launch/soak.sh prove); without, the streamed and the ring form on 8 devices, and the hardest case in all forms,
on fewer and in f32 too.
"""

import itertools
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

import numpy as np

from align_jax import sharding
from align_jax.losses.contrastive import FORMS, contrastive_loss

N, D = 40, 12  # 5 rows on each of 8 devices: blocks of 3 leave an uneven rest everywhere
SCALARS = {"temperature": 0.07, "bias": -1.5}


def inputs(dtype):
    """(image, text, ids): unit vectors; about half of the rows have a duplicate by image or by caption."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, N, D))
    text += image
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype) for x in (image, text)]
    # The upper halves of the ids agree everywhere: only both together name a picture.
    ids = np.stack([rng.integers(0, N, (N, 2)), np.full((N, 2), 7)], axis=-1).astype(np.uint32)
    return *unit, ids


def reference(image, text, ids, *, duplicates, negatives, smoothing, sigmoid):
    """((loss, d image, d text, d temperature, d bias), hits of images, of texts), with every logit and target."""
    temperature, bias = SCALARS["temperature"], SCALARS["bias"] if sigmoid else 0.0
    kept = 1 + round(negatives * (N - 1))
    logits = image @ text.T / temperature + bias
    same = (ids[:, None] == ids[None]).all(-1).any(-1) | np.eye(N, dtype=bool)
    total, gradient, hits = 0.0, np.zeros((N, N)), []
    for direction in (0, 1):
        z = logits if direction == 0 else logits.T
        allowed = (np.arange(N)[None] - np.arange(N)[:, None]) % N < kept
        positive = np.eye(N, dtype=bool)
        if duplicates == "shared":
            positive = same & allowed
        if duplicates == "ignored":
            allowed = allowed & (~same | positive)
        if sigmoid:
            sign = np.where(positive, 1.0, -1.0)
            total += 0.5 * np.sum(allowed * np.log1p(np.exp(-sign * z))) / N
            change = 0.5 * allowed * (1 / (1 + np.exp(-z)) - positive)
        else:
            weights = np.where(allowed, np.exp(z - z.max()), 0)
            probability = weights / weights.sum(1, keepdims=True)
            target = (1 - smoothing) * positive / positive.sum(1, keepdims=True)
            target = target + smoothing * allowed / allowed.sum(1, keepdims=True)
            total -= np.sum(np.where(allowed, target * np.log(np.where(allowed, probability, 1)), 0)) / N
            change = probability - target
        best = np.where(positive, z, -np.inf).max(1) > np.where(allowed & ~positive, z, -np.inf).max(1)
        hits.append(best.sum())
        gradient += (change if direction == 0 else change.T) / N
    cosines = image @ text.T
    grads = gradient @ text / temperature, gradient.T @ image / temperature
    return (total, *grads, -np.sum(gradient * cosines) / temperature**2, gradient.sum() * sigmoid), *hits


def found(arrays, devices, dtype, *, form, block, duplicates, negatives, smoothing, sigmoid):
    """The same from the function under test, on a mesh of `devices`."""
    scalars = {name: dtype(value) for name, value in SCALARS.items()}

    def loss(image, text, scalars):
        def rows(scalars, both):
            image, text, ids = both
            parts = contrastive_loss(
                image, text, scalars["temperature"], bias=scalars["bias"] if sigmoid else None, ids=ids,
                duplicates=duplicates, negatives=negatives, label_smoothing=smoothing, form=form, block=block,
                axis_names=sharding.AXES,
            )  # fmt: skip
            return (), sharding.total(parts)

        parts = sharding.per_device(rows)(scalars, (image, text, arrays[2]))[1]
        return parts.loss.total / parts.loss.count, (parts.image_to_text.total, parts.text_to_image.total)

    with jax.set_mesh(sharding.make_mesh(devices=devices, fsdp=2 if devices > 1 else 1)):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (value, hits), (image, text, scalar) = jax.device_get(step(*arrays[:2], scalars))
    return (value, image, text, scalar["temperature"], scalar["bias"]), *hits


def main():
    """Prints the largest errors; fails where one is too large."""
    worst = {np.float64: 0.0, np.float32: 0.0}
    cases = [
        {"duplicates": duplicates, "negatives": negatives, "smoothing": smoothing, "sigmoid": sigmoid}
        for sigmoid, smoothing in ((False, 0.1), (True, 0.0))
        for duplicates, negatives in (("negatives", 1.0), ("shared", 1.0), ("ignored", 0.5), ("shared", 0.5))
    ]
    for case, form, (devices, block) in itertools.product(cases, FORMS, ((1, 64), (2, 3), (8, 3))):
        if form == "dense" and block == 64:
            continue
        every = "--all" in sys.argv
        hardest = case["duplicates"] == "shared" and case["negatives"] < 1
        if not (hardest or every) and (devices < 8 or form == "dense" or case["duplicates"] == "shared"):
            continue
        for dtype in worst if every or (devices == 8 and hardest) else (np.float64,):
            arrays = inputs(dtype)
            expected = reference(*(x.astype(np.float64) for x in arrays[:2]), arrays[2], **case)
            got = found(arrays, devices, dtype, form=form, block=block, **case)
            assert got[1:] == expected[1:], (case, form, devices, got[1:], expected[1:])
            for a, b in zip(got[0], expected[0], strict=True):
                assert np.asarray(a).dtype == dtype
                error = float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3))
                assert error < (1e-9 if dtype == np.float64 else 5e-5), (case, form, devices, block, dtype, error)
                worst[dtype] = max(worst[dtype], error)
    print("; ".join(f"{dtype.__name__} losses and gradients agree to {error:.1e}" for dtype, error in worst.items()))


if __name__ == "__main__":
    main()
