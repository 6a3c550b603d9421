"""Names of machines to plan for, and what is publicly known of a TPU chip of each generation."""

import re
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

from align_jax.config import nearest
from align_jax.planning import gpu
from align_jax.types import AlignError


class Generation(NamedTuple):
    """Of one chip."""

    teraflops: float  # peak of dense bf16 products, as the maker's documentation gives it
    memory: float  # GiB that the compiler gives a program, per chip (measured with libtpu 0.0.42)
    cores: int  # TensorCores
    dims: int  # of a slice
    per_chip: bool  # whether jax shows a chip as one device, or else each core
    example: str
    megacore: bool = False  # whether one device a chip has to be asked for


GENERATIONS = {
    "v2": Generation(45, 2 * 7.48, 2, 2, False, "v2:4x4"),
    "v3": Generation(123, 2 * 15.48, 2, 2, False, "v3:16x32"),
    "v4": Generation(275, 30.75, 2, 3, True, "v4:8x8x8", megacore=True),
    "v5e": Generation(197, 15.75, 1, 2, True, "v5e:16x16"),
    "v5p": Generation(459, 95.74, 2, 3, True, "v5p:8x8x8"),
    "v6e": Generation(918, 31.25, 1, 2, True, "v6e:16x16"),
    "tpu7x": Generation(2307, 2 * 94.75, 2, 3, False, "tpu7x:4x4x4"),
}


class Topology(NamedTuple):
    """A slice, or several that a data-centre network joins."""

    name: str  # as the user wrote it
    generation: str
    shape: str  # "8x8x8", in chips
    legacy: bool = False  # each core of a v4 or v5p chip a device of its own
    slices: int = 1

    platform = "tpu"
    hours = "core-hours"
    package = "tpu"
    packages = ("libtpu",)  # that compile
    estimate = False  # its compiler says whether a program fits
    # So that libtpu neither looks for a TPU nor for the service that tells of one, and several may compile at a time.
    environment = MappingProxyType({
        "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    })  # fmt: skip

    @property
    def installed(self) -> bool:
        """Whether the compiler is."""
        return find_spec("libtpu") is not None

    def described(self) -> dict[str, Any]:
        """Arguments of jax's `get_topology_desc`."""
        options: dict[str, Any] = {} if self.slices == 1 else {"num_slices": self.slices}
        asked = GENERATIONS[self.generation].megacore  # v4: one device a core unless asked; v5p: the other way round
        if asked != self.legacy:
            options["chip_config_name"] = "megacore" if asked else "legacy"
        return {"topology_name": f"{self.generation}:{self.shape}", **options}

    @property
    def chips(self) -> int:
        """Of all slices."""
        count = self.slices
        for side in self.shape.split("x"):
            count *= int(side)
        return count

    @property
    def cores_per_device(self) -> int:
        """TensorCores that jax shows as one device."""
        generation = GENERATIONS[self.generation]
        return generation.cores if generation.per_chip and not self.legacy else 1

    @property
    def device_unit(self) -> str:
        """What one device is."""
        cores = GENERATIONS[self.generation].cores
        if cores == 1:
            return "chip"
        return f"chip ({cores} cores as one)" if self.cores_per_device > 1 else "core"

    @property
    def devices_per_chip(self) -> int:
        """How many devices jax shows for a chip."""
        return GENERATIONS[self.generation].cores // self.cores_per_device

    @property
    def devices(self) -> int:
        """Of all slices."""
        return self.chips * self.devices_per_chip

    @property
    def cores(self) -> int:
        """Of all slices."""
        return self.devices * self.cores_per_device

    @property
    def teraflops(self) -> float:
        """Peak of one device."""
        return GENERATIONS[self.generation].teraflops / self.devices_per_chip

    @property
    def limit_bytes(self) -> int:
        """Memory of one device that a program may use."""
        return int(GENERATIONS[self.generation].memory / self.devices_per_chip * 2**30)


Target = Topology | gpu.GpuTopology


def parse(text: str) -> Target:
    """`generation:AxB[xC][:legacy][*slices]`, in chips: v4:8x8x8, v4:8x8x8:legacy, v5e:16x16*4. GPUs: `gpu.parse`."""
    if text.partition(":")[0] in gpu.GPUS:
        return gpu.parse(text)
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)(:legacy)?(?:\*(\d+))?", text)
    examples = ", ".join(generation.example for generation in GENERATIONS.values())
    if match is None:
        raise AlignError(
            f"--topology: expected generation:AxB[xC][:legacy][*slices] such as {examples}, "
            f"or GPUs such as h100:8, found {text!r}"
        )
    generation, shape, legacy, slices = match.groups()
    if generation not in GENERATIONS:
        raise AlignError(
            f"--topology: unknown generation {generation!r}; {nearest(generation, [*GENERATIONS, *gpu.GPUS])}"
        )
    known = GENERATIONS[generation]
    if shape.count("x") + 1 != known.dims:
        raise AlignError(
            f"--topology: a {generation} slice has {known.dims} dimensions, as in {known.example}; found {text!r}"
        )
    if legacy and not (known.per_chip and known.cores > 1):
        raise AlignError(f"--topology: legacy is for v4 and v5p, whose chips are one device otherwise; found {text!r}")
    return Topology(text, generation, shape, bool(legacy), int(slices or 1))
