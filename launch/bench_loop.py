"""What the loop costs beside the step: the trainer's loop, with its metrics on disk, against the bare compiled step.

Both take the same batch from memory and run in turn; the fastest of the rounds counts, the slowest shows the
spread.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")

import jax

from align_jax import optim, sharding, tasks, train
from align_jax import state as states
from align_jax.checkpoint import Checkpoints
from align_jax.metrics import Recorder
from configs.align_demo import get_config

TARGET = 1.02


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=256)
    flags = parser.parse_args()
    # Both compile each time: the second time from the cache.
    jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / "align_jax_bench"))
    config = get_config()
    task = tasks.make(config)
    optimizer = optim.make(steps=config.steps, freeze=(), **config.optim)
    mesh = sharding.make_mesh()
    local = task.dummy_batch(flags.batch)

    def fresh():
        return states.create(task, optimizer, task.dummy_batch(1), seed=0, mesh=mesh)

    def bare() -> float:
        state, batch = fresh(), sharding.place(mesh, local)
        step = train.jitted(task, optimizer, state, mesh)
        state, metrics, _ = step(state, batch)
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(flags.steps - 1):
            state, metrics, _ = step(state, batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - start) / (flags.steps - 1)

    def loop() -> float:
        with (
            tempfile.TemporaryDirectory() as folder,
            Checkpoints(Path(folder) / "checkpoints", every=10**6) as checkpoints,
            Recorder(Path(folder), start=0, steps=flags.steps, rows=flags.batch, every=flags.steps) as recorder,
        ):
            train.train(
                fresh(), task=task, optimizer=optimizer, batches=lambda _: itertools.repeat(local),
                evaluate=lambda *_: [], checkpoints=checkpoints, config={}, recorder=recorder,
                steps=flags.steps, stop=lambda _: False, finished=lambda *_: None, mesh=mesh, ahead=config.steps_ahead,
            )  # fmt: skip
            last = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])
            return flags.batch / last["pairs_per_second"]

    times: dict[str, list[float]] = {"bare step": [], "loop": []}
    with jax.set_mesh(mesh):
        for _ in range(flags.rounds):
            times["bare step"].append(bare())
            times["loop"].append(loop())
    ratio = min(times["loop"]) / min(times["bare step"])
    for name, found in times.items():
        print(f"{name:10} {1e3 * min(found):7.1f} ms a step, slowest of {flags.rounds}: {1e3 * max(found):.1f} ms")
    print(f"ratio {ratio:.3f}, target {TARGET}")
    print(json.dumps({"ratio": ratio, "seconds": times}))


if __name__ == "__main__":
    main()
