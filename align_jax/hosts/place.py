"""Which process of how many this is: read from what its launcher left in the environment."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

from align_jax.types import AlignError

PORT = 8482  # of process 0, where the launcher names none
PLAIN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
GOOGLE = Path("/sys/class/dmi/id/product_name")  # says "Google Compute Engine" on its machines


class Place(NamedTuple):
    """Process number `process` of `processes`; number 0 listens at `address`, "host:port"."""

    address: str
    processes: int
    process: int


def find(environment: Mapping[str, str], attribute: Callable[[str], str] | None) -> Place | None:
    """Where this process stands, or None where it is the only one.

    Read in this order: the three variables `PLAIN`, Slurm's of a job step, those of a TPU slice on Kubernetes, and
    `attribute(name)`, the metadata of a TPU VM (None elsewhere). Several slices are counted through by MEGASCALE_*.
    """
    given = [name for name in PLAIN if name in environment]
    if given and len(given) < len(PLAIN):
        raise AlignError(f"environment: expected all of {', '.join(PLAIN)} or none, found only {', '.join(given)}")
    if given:
        found = Place(environment[PLAIN[0]], _number(environment, PLAIN[1]), _number(environment, PLAIN[2]))
    elif "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        found = _slurm(environment)
    elif workers := environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES"):
        found = _slices(environment, workers.split(","), _number(environment, "TPU_WORKER_ID"))
    elif attribute is not None:
        rows = [line.partition(":") for line in attribute("tpu-env").splitlines()]
        own = {name.strip(): value.strip().strip("'") for name, _, value in rows}
        workers = [worker.split(":")[-1] for worker in attribute("worker-network-endpoints").split(",")]
        found = _slices(
            own, workers, _number({"agent-worker-number": attribute("agent-worker-number")}, "agent-worker-number")
        )
    else:
        return None
    port = found.address.rpartition(":")[2]
    if not 0 <= found.process < found.processes or not port.isdigit() or not 0 < int(port) < 2**16:
        raise AlignError(
            "environment: expected host:port of process 0 and a process number below the count, "
            f"found {found.address}, process {found.process} of {found.processes}"
        )
    return found if found.processes > 1 else None


def metadata_server() -> str:
    """Address of the server that tells a machine of Google's about itself; "" elsewhere."""
    if host := os.environ.get("GCE_METADATA_HOST"):  # as Google's own libraries take it
        return f"http://{host}"
    on_google = GOOGLE.exists() and "Google" in GOOGLE.read_text()
    return "http://metadata.google.internal" if on_google else ""


def tpu_vm() -> Callable[[str], str] | None:
    """The reader of this machine's metadata if it is a TPU VM, which has TPU devices and a metadata server."""
    if not any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0")):
        return None

    def attribute(name: str) -> str:
        try:
            url = f"{metadata_server()}/computeMetadata/v1/instance/attributes/{name}"
            with urlopen(Request(url, headers={"Metadata-Flavor": "Google"}), timeout=10) as reply:
                return reply.read().decode()
        except OSError as error:
            raise AlignError(
                f"this machine has TPUs, but its metadata server does not tell {name} ({error}); set "
                f"{PLAIN[1]}=1, {PLAIN[2]}=0 and {PLAIN[0]}=localhost:{PORT}, or the real ones for several hosts"
            ) from error

    return attribute


def _slurm(environment: Mapping[str, str]) -> Place:
    """The first of 'node7', 'node[07-12,20],other' or 'a,b' leads, at a port of the job's own."""
    prefix, _, rest = environment["SLURM_STEP_NODELIST"].partition("[")
    first = prefix.partition(",")[0]
    if first == prefix and rest:
        first += rest.replace("-", ",").replace("]", ",").partition(",")[0]
    port = 61440 + _number(environment, "SLURM_JOB_ID") % 4096
    count = _number(environment, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS")
    return Place(f"{first}:{port}", count, _number(environment, "SLURM_PROCID"))


def _slices(environment: Mapping[str, str], workers: list[str], index: int) -> Place:
    """Worker `index` of `workers`, in one slice or in one of several."""
    slices, own = 1, 0
    if environment.get("MEGASCALE_NUM_SLICES"):
        slices, own = (_number(environment, f"MEGASCALE_{name}") for name in ("NUM_SLICES", "SLICE_ID"))
    leader = environment.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
    return Place(f"{leader.partition(':')[0]}:{PORT}", slices * len(workers), own * len(workers) + index)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        raise AlignError(f"environment: expected a number in {name}, found {value!r}")
    return int(value)
