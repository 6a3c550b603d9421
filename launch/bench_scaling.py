"""Weak scaling by the collectives of the compiled step: bytes of their results per device, on 1, 2, 4 and 8 devices.

The demo's model at 128 pairs a device, in three layouts: copies of all parameters, split and gathered for the step,
split and gathered block by block. Nothing runs. On the wire a ring sends twice as much for an all-reduce, and n - 1
times as much for a reduce-scatter. P: the parameters in f32.
"""

import argparse
import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax

from align_jax import optim, sharding, tasks, train
from align_jax import state as states
from align_jax.planning import collectives
from configs.align_demo import get_config

LAYOUTS = {"copies": (False, "step"), "split, step": (True, "step"), "split, block": (True, "block")}


def measured(devices: int, split: bool, gather: str, rows: int) -> tuple[dict[str, int], int]:
    """({kind: bytes}, bytes of the parameters)."""
    config = get_config()
    config.task.gather = gather
    task = tasks.make(config)
    optimizer = optim.make(steps=config.steps, freeze=(), **config.optim)
    mesh = sharding.make_mesh(devices=devices, fsdp=devices if split else 1)
    with jax.set_mesh(mesh):
        state = states.abstract(task, optimizer, task.dummy_batch(1), mesh=mesh)
        batch = sharding.place(mesh, task.dummy_batch(rows * devices))
        hlo = train.jitted(task, optimizer, state, mesh).lower(state, batch).compile().as_text()
    sizes = 4 * sum(x.size for x in jax.tree.leaves(state.params))
    return {kind: traffic.bytes for kind, traffic in collectives.read(hlo).items()}, sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128, help="pairs on each device, in whole groups of BatchNorm")
    flags = parser.parse_args()
    report = []
    print(f"{'devices':>8}  {'layout':14}{'MB':>10}{'of P':>7}  by kind")
    for devices in (1, 2, 4, 8):
        for layout, (split, gather) in LAYOUTS.items():
            if devices == 1 and split:
                continue
            found, size = measured(devices, split, gather, flags.rows)
            total = sum(found.values())
            kinds = ", ".join(f"{kind} {bytes / 1e6:.2f}" for kind, bytes in sorted(found.items()))
            print(f"{devices:>8}  {layout:14}{total / 1e6:>10.2f}{total / size:>7.2f}  {kinds}", flush=True)
            report.append({"devices": devices, "layout": layout, "bytes": found, "parameters": size})
    print(json.dumps(report))


if __name__ == "__main__":
    main()
