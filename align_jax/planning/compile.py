"""Compiles the real train step for machines that are not here.

A process of its own, since a topology that does not exist aborts it:

python -m align_jax.planning.compile < {"config": .., "topology": ..}; the last line of stdout is the report.
"""

import json
import re
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from align_jax import config as configs
from align_jax import optim, sharding, tasks, train
from align_jax import state as states
from align_jax.planning import collectives, flops
from align_jax.planning.topology import Target, parse

# ".. the total memory required for HLO temporaries (62.54G) exceeds available HBM (15.48G)"
_TOO_MUCH = re.compile(r"([\d.]+)([KMG])\D{1,60}?([\d.]+)([KMG])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def report(config: configs.Config, topology: Target) -> dict[str, Any]:
    """What `plan` prints, per device and step."""
    mesh = sharding.mesh_over(devices_of(topology), fsdp=config.mesh.get("fsdp", 1))
    task = tasks.make(config)
    optimizer = configs.call(
        optim.make, config.optim, where="config.optim", steps=config.steps, freeze=(*config.freeze, *task.locked)
    )
    one = task.dummy_batch(1)
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype, sharding=sharding.by_row(mesh))
        for name, x in one.items()
    }
    with jax.set_mesh(mesh):
        state = states.abstract(task, optimizer, one, mesh=mesh)
        traced = train.jitted(task, optimizer, state, mesh).trace(state, batch)
        found: dict[str, Any] = {
            "devices": mesh.size,
            "device_unit": topology.device_unit,
            "estimate": topology.estimate,
            "limit_bytes": topology.limit_bytes,
            "rows_per_device": config.batch_size // mesh.size,
            "flops": flops.count(traced.jaxpr.jaxpr),
            "parameter_bytes": _bytes(state.params),
            "optimizer_bytes": _bytes(state.opt_state),
            "batch_bytes": _bytes(batch),
        }
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return found | _too_much(str(error))
    memory = compiled.memory_analysis()
    return found | {
        "fits": memory.peak_memory_in_bytes <= topology.limit_bytes,  # a TPU's compiler has said so by compiling
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": {kind: traffic._asdict() for kind, traffic in collectives.read(compiled.as_text()).items()},
    }


def devices_of(target: Target) -> list[Any]:
    """Devices that are not here, described by their compiler."""
    return topologies.get_topology_desc(platform=target.platform, **target.described()).devices


def _too_much(message: str) -> dict[str, Any]:
    found: dict[str, Any] = {"fits": False, "peak_bytes": None, "verdict": message.splitlines()[0]}
    if match := _TOO_MUCH.search(message):
        found |= {name: float(match[i]) * _UNITS[match[i + 1]] for name, i in (("peak_bytes", 1), ("limit_bytes", 3))}
    return found


def _bytes(tree: Any) -> int:
    """On one device; keys count as their two words."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape)))
        * (8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize)
        for x in jax.tree.leaves(tree)
    )


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(report(ConfigDict(given["config"]), parse(given["topology"]))))
