"""Compiles a run's train step for TPUs or GPUs that are not here: what it needs of memory, traffic, time and money.

python -m align_jax.plan --config=configs/align_l2.py --topology=v4:8x8x8 [--price=3.22] [--config.task.micro_batches=2]
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from align_jax import config as configs
from align_jax import stages
from align_jax.cli import main_of
from align_jax.config import Config
from align_jax.data import source as sources
from align_jax.planning.ask import ask
from align_jax.planning.topology import Target, parse
from align_jax.types import AlignError


def variants(config: Config, devices: int) -> Iterator[tuple[str, Config]]:
    """(what changes, config) in order of cost: traffic first, then operations (remat and micro-batches embed again)."""
    few, many = math.gcd(8, devices), math.gcd(64, devices)
    for remat, micro, fsdp, gather in (
        ("none", 1, 1, "step"), ("none", 1, few, "step"), ("block", 1, 1, "step"), ("block", 1, few, "step"),
        ("block", 1, many, "block"), ("none", 2, few, "step"), ("none", 4, few, "step"), ("none", 8, few, "step"),
        ("block", 2, many, "block"), ("block", 4, many, "block"), ("block", 8, many, "block"),
    ):  # fmt: skip
        own: Config = ConfigDict(configs.plain(config))
        with own.ignore_type():  # a policy may have been a list of names
            for tower in ("image", "text"):
                if tower in own.task:
                    own.task[tower].remat = remat
        own.task.micro_batches, own.mesh.fsdp, own.task.gather = micro, fsdp, gather
        yield f"remat={remat}, fsdp={fsdp}, gather={gather}, micro_batches={micro}", own


def cheapest(config: Config, topology: Target, *, full: bool) -> Config:
    """The first of `variants` that fits; AlignError where none does."""
    refused: AlignError | None = None
    compiled = False
    for name, variant in variants(config, topology.devices):
        try:
            found = ask(variant, topology, full=full)
        except AlignError as error:  # rows that do not divide: those of another may
            print(f"{name}: {error}")
            refused = error
            continue
        compiled = True
        print(f"{name}: {verdict(found)}")
        if found["fits"]:
            return variant
    if refused is not None and not compiled:
        raise refused
    raise AlignError(f"{topology.name}: nothing that was tried fits; take a larger slice or a smaller batch")


def counted(config: Config) -> Config:
    """The config with its steps as a number. Only the data can say how many epochs are."""
    if str(config.steps).isdigit():
        return configs.override(config, {"steps": int(config.steps)}, where="config")
    try:
        return stages.counted(config, sources.make(**config.data.source))
    except AlignError as error:
        raise AlignError(f"config.steps: {config.steps}, but {error}; or give a number: --config.steps=1000") from error


def estimate(
    found: dict[str, Any], topology: Target, config: Config, mfu: float, price: float | None
) -> dict[str, Any]:
    """Seconds a step, pairs/s, days, core-hours and cost, if a chip reaches `mfu` of its peak and never waits."""
    seconds = found["flops"] / (topology.teraflops * 1e12 * mfu)
    hours = seconds * config.steps / 3600
    return {
        "seconds_per_step": seconds,
        "pairs_per_second": config.batch_size / seconds,
        "days": hours / 24,
        "core_hours": hours * topology.cores,
        "cost": None if price is None else hours * topology.chips * price,
    }


def lines(found: dict[str, Any], guess: dict[str, Any], topology: Target, config: Config, mfu: float) -> list[str]:
    """The report as a person reads it."""
    text = [
        f"{topology.name}: {found['devices']} devices, each a {topology.device_unit}; "
        f"{found['rows_per_device']} of {config.batch_size} pairs on each",
        verdict(found),
        f"  parameters {_gib(found['parameter_bytes'])}, optimizer {_gib(found['optimizer_bytes'])}, "
        f"batch {_gib(found['batch_bytes'])}"
        + (f", activations and gradients {_gib(found['temporary_bytes'])}" if found["fits"] else ""),
    ]
    for kind, traffic in found.get("collectives", {}).items():
        text.append(f"  {kind}: {traffic['bytes'] / 1e6:.1f} MB in {traffic['executions']} executions")
    text.append(
        f"{found['flops'] / 1e12:.2f} TFLOP per device and step; at {mfu:.0%} of its {topology.teraflops:.0f} TFLOP/s, "
        f"an assumption: {guess['seconds_per_step']:.3f} s, {guess['pairs_per_second']:,.0f} pairs/s"
    )
    cost = "" if guess["cost"] is None else f", {guess['cost']:,.0f} for {topology.chips} chips"
    text.append(f"{config.steps:,} steps: {guess['days']:.1f} days, {guess['core_hours']:,.0f} {topology.hours}{cost}")
    return text


def verdict(found: dict[str, Any]) -> str:
    """Whether it fits, as the compiler says."""
    word = "fits" if found["fits"] else "DOES NOT FIT"
    if found["estimate"]:
        word = f"an estimate, no verdict: {word}"
    return f"{word}: {_gib(found['peak_bytes'])} of {_gib(found['limit_bytes'])} per device"


def _gib(count: float | None) -> str:
    return "?" if count is None else f"{count / 2**30:.2f} GiB"


def main(_: list[str]) -> None:
    """Prints the report."""
    jax.config.update("jax_platforms", "cpu")  # the machine to plan for is not this one
    values = flags.FLAGS
    config, topology = values.config, parse(values.topology)
    configs.check(config)
    config = counted(config)
    if values.sweep:
        config = cheapest(config, topology, full=values.full)
    found = ask(config, topology, full=values.full)
    guess = estimate(found, topology, config, values.mfu, values.price)
    print("\n".join(lines(found, guess, topology, config, values.mfu)))
    if values.json:
        print(json.dumps(found | guess | {"topology": topology.name}))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "the config file, configs/*.py", lock_config=True)
    flags.DEFINE_string(
        "topology", None, "generation:AxB[xC][:legacy][*slices], in chips; GPUs: h100:8, h100:4x8", required=True
    )
    flags.DEFINE_float("price", None, "of one chip for one hour, in any currency")
    flags.DEFINE_float("mfu", 0.4, "share of the chip's peak that the estimate of time assumes", 0.01, 1.0)
    flags.DEFINE_bool("full", False, "compile with the effort of a real run: 3 times longer, traffic as it will be")
    flags.DEFINE_bool("sweep", False, "try remat, fsdp, gather and micro_batches in order of cost, until one fits")
    flags.DEFINE_bool("json", False, "print one JSON object as the last line")
    flags.mark_flag_as_required("config")
    main_of(main)
