"""NVIDIA machines to plan for, described to XLA so that none need be there.

XLA takes such a description instead of a device (its `GpuTargetConfigProto`). It neither tunes kernels on it nor checks
that a program fits its memory: what a plan for GPUs says is an estimate.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from align_jax.types import AlignError

SHARE = 0.9  # of the memory that a program may use: the driver, NCCL and cuDNN take theirs


class Gpu(NamedTuple):
    """Of one GPU, from the maker's data sheets and CUDA's table of compute capabilities."""

    name: str
    teraflops: float  # peak of dense bf16 products
    gibibytes: float
    bandwidth: float  # of its memory, bytes/s
    capability: tuple[int, int]
    processors: int  # streaming multiprocessors
    lanes: int  # f32 units of each
    shared: int  # bytes of shared memory of each
    cache: int  # bytes of L2
    gigahertz: float


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 312, 80, 2.039e12, (8, 0), 108, 64, 164 * 1024, 40 * 2**20, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 989, 80, 3.35e12, (9, 0), 132, 128, 228 * 1024, 50 * 2**20, 1.98),
    "h200": Gpu("NVIDIA H200", 989, 140, 4.8e12, (9, 0), 132, 128, 228 * 1024, 50 * 2**20, 1.98),
}


class GpuTopology(NamedTuple):
    """Equal machines with the same number of GPUs each."""

    name: str  # as the user wrote it
    kind: str
    hosts: int
    gpus: int  # of a host

    platform = "cuda"
    device_unit = "GPU"
    hours = "GPU-hours"
    package = "gpu"
    estimate = True

    @property
    def devices(self) -> int:
        """Of all hosts."""
        return self.hosts * self.gpus

    @property
    def chips(self) -> int:
        """Of all hosts."""
        return self.devices

    @property
    def cores(self) -> int:
        """What hours are counted of."""
        return self.devices

    @property
    def teraflops(self) -> float:
        """Peak of one GPU."""
        return GPUS[self.kind].teraflops

    @property
    def limit_bytes(self) -> int:
        """Memory of one GPU that a program may use."""
        return int(SHARE * GPUS[self.kind].gibibytes * 2**30)

    @property
    def packages(self) -> tuple[str, ...]:
        """Those that compile, as far as they are installed."""
        return tuple(f"jax-cuda{version}-plugin" for version in (12, 13) if find_spec(f"jax_cuda{version}_plugin"))

    @property
    def installed(self) -> bool:
        """Whether the compiler is."""
        return bool(self.packages) and _libraries() is not None

    @property
    def environment(self) -> dict[str, str]:
        """For the process that compiles."""
        return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_gpu_cuda_data_dir={_libraries()}"}

    def described(self) -> dict[str, str]:
        """Arguments of jax's `get_topology_desc`."""
        gpu = GPUS[self.kind]
        target = f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  core_count: {gpu.processors} fpus_per_core: {gpu.lanes} clock_rate_ghz: {gpu.gigahertz}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {gpu.shared - 1024} shared_memory_per_core: {gpu.shared}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  device_memory_size: {int(gpu.gibibytes * 2**30)} memory_bandwidth: {int(gpu.bandwidth)} l2_cache_size: {gpu.cache}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""
        return {"topology_name": self.kind, "topology": f"1x{self.hosts}x{self.gpus}", "target_config": target}


def parse(text: str) -> GpuTopology:
    """`kind:[hosts x]gpus`, the kind of `GPUS`: h100:8, a100:4x8."""
    match = re.fullmatch(r"(\w+):(?:([1-9]\d*)x)?([1-9]\d*)", text)
    if match is None:
        raise AlignError(f"--topology: expected GPUs as h100:8 or, of several hosts, h100:4x8; found {text!r}")
    kind, hosts, gpus = match.groups()
    return GpuTopology(text, kind, int(hosts or 1), int(gpus))


def _libraries() -> Path | None:
    """The folder of NVIDIA's package that holds the code which XLA links into kernels."""
    found = find_spec("nvidia")
    roots = list(found.submodule_search_locations or ()) if found else []
    folders = sorted(path.parents[1] for root in roots for path in Path(root).glob("*/nvvm/libdevice"))
    return folders[-1] if folders else None
