"""Joins the processes of a run into one machine, or does nothing where there is one process."""

import os
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

from align_jax import code
from align_jax.hosts import place as places
from align_jax.hosts.meeting import meet
from align_jax.types import AlignError

# Seconds until a process that is gone is noticed, and that a process which ends waits for the others.
HEARTBEAT, SHUTDOWN = 60, 30


def start(facts: Mapping[str, Any], *, seconds: float) -> None:
    """Waits up to `seconds` for the other processes, compares `facts`, our code and jax with theirs, and joins them.

    To be called before jax first looks for devices. AlignError names the process that is missing or differs. Processes
    that are joined already, for one run of many, stay so.
    """
    if jax.distributed.is_initialized():
        return
    place = places.find(os.environ, places.tpu_vm())
    if place is None:
        return
    ours = {"align_jax": version("align_jax"), "code": code.digest(), "jax": version("jax")}
    hosts = meet(place, ours | dict(facts), seconds=seconds)
    try:
        jax.distributed.initialize(
            *place, initialization_timeout=round(seconds), heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
            cluster_detection_method="deactivate",  # under Slurm it would leave each process one GPU of all
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise AlignError(f"process {place.process} cannot join the others at {place.address}: {error}") from error
    if jax.default_backend() == "cpu":
        # Processors wait 30 s for each other at their first exchange, and of a cached program only process 0 knows: it
        # would be there long before those that compile.
        jax.config.update("jax_enable_compilation_cache", False)
    same_devices(Counter(device.process_index for device in jax.devices()), hosts)


def same_devices(counts: Mapping[int, int], hosts: list[str]) -> None:
    """Refuses processes with more or fewer devices than most; `counts`: process -> devices."""
    usual = Counter(counts.get(process, 0) for process in range(len(hosts))).most_common(1)[0][0]
    for process, host in enumerate(hosts):
        if counts.get(process, 0) != usual:
            raise AlignError(
                f"process {process} ({host}) has {counts.get(process, 0)} devices, the others have {usual}; "
                "mend that host or leave it out"
            )
