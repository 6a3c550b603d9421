"""The three forms of the contrastive loss, values and gradients, on 8 processor devices: time and memory at growing N.

All forms run in turn in this process; the fastest of the rounds counts, and the slowest shows the spread. Temporary
memory is what XLA plans for one device, arguments and results apart. Above --run the program is only compiled.
"""

import argparse
import json
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.losses.contrastive import FORMS, contrastive_loss


def compiled(form: str, pairs: int, width: int, mesh: jax.sharding.Mesh):
    """The program for one form."""

    def loss(image, text, temperature):
        def here(temperature, both):
            parts = contrastive_loss(*both, temperature, label_smoothing=0.1, form=form, axis_names=sharding.AXES)
            return (), sharding.total(parts)

        parts = sharding.per_device(here)(temperature, (image, text))[1]
        return parts.loss.total / parts.loss.count

    rows = jax.ShapeDtypeStruct((pairs, width), jnp.float32, sharding=sharding.by_row(mesh))
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(rows, rows, jnp.float32(0.02)).compile()


def seconds(steps: dict, pairs: int, width: int, rounds: int, mesh: jax.sharding.Mesh) -> dict[str, list[float]]:
    """Wall time of each round of each form."""
    units = np.random.default_rng(0).normal(size=(2, pairs, width)).astype(np.float32)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    image, text = (jax.device_put(x, sharding.by_row(mesh)) for x in units)
    temperature = jax.device_put(jnp.float32(0.02), sharding.replicated(mesh))
    found: dict[str, list[float]] = {form: [] for form in steps}
    for _ in range(rounds + 1):
        for form, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(image, text, temperature))
            found[form].append(time.perf_counter() - start)
    return {form: times[1:] for form, times in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=640, help="of the embeddings")
    parser.add_argument("--run", type=int, default=4096, help="the largest number of pairs that is run")
    flags = parser.parse_args()
    mesh = sharding.make_mesh()
    report = []
    print(f"{'pairs':>8}{'form':>10}{'temporary MB':>14}{'seconds':>10}{'spread':>8}{'of dense':>10}")
    for pairs in (1024, 4096, 16384, 65536):
        steps = {form: compiled(form, pairs, flags.width, mesh) for form in FORMS}
        times = seconds(steps, pairs, flags.width, flags.rounds, mesh) if pairs <= flags.run else {}
        for form, step in steps.items():
            row = {"pairs": pairs, "form": form, "bytes": step.memory_analysis().temp_size_in_bytes}
            text = f"{pairs:>8}{form:>10}{row['bytes'] / 1e6:>14.1f}"
            if times:
                best, worst = min(times[form]), max(times[form])
                row |= {"seconds": best, "slowest": worst, "of_dense": best / min(times["dense"])}
                text += f"{best:>10.3f}{worst / best:>8.2f}{row['of_dense']:>10.2f}"
            print(text, flush=True)
            report.append(row)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
