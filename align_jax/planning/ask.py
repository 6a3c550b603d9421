"""Asks for the report of one compilation: in a process of its own, with the time on screen, once for each program."""

import hashlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

from align_jax import code, files, tasks
from align_jax import config as configs
from align_jax.cache import cache_folder
from align_jax.config import Config
from align_jax.metrics import duration
from align_jax.planning.topology import Target
from align_jax.types import AlignError


def ask(config: Config, topology: Target, *, full: bool) -> dict[str, Any]:
    """The report of `planning.compile`, from the cache where this program was compiled before.

    `full`: at the compiler's default effort; without, at its least, 3 times faster, with nearly the same memory.
    """
    if not topology.installed:
        raise AlignError(
            f"plan for {topology.name} needs a compiler that is not installed: "
            f'pip install "align-jax[{topology.package}]"'
        )
    if config.batch_size % topology.devices:
        raise AlignError(
            f"config.batch_size: expected a multiple of the {topology.devices} devices of {topology.name}, "
            f"found {config.batch_size}"
        )
    tasks.make(config).check(config.batch_size // topology.devices)
    given = json.dumps({"config": configs.plain(config), "topology": topology.name, "full": full}, sort_keys=True)
    kept = cache_folder() / "plans" / f"{_fingerprint(given, topology.packages)}.json"
    if not kept.exists():
        files.write_json(kept, _compiled(given, topology, full))
    return json.loads(kept.read_text())


def _compiled(given: str, topology: Target, full: bool) -> dict[str, Any]:
    """Where a topology does not exist, the compiler ends its process: so not in ours."""
    environment = os.environ | dict(topology.environment) | ({} if full else {"JAX_OPTIMIZATION_LEVEL": "O0"})
    command = [sys.executable, "-m", "align_jax.planning.compile"]
    started = time.monotonic()
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        text: str | None = given
        while True:
            try:
                out, err = process.communicate(text, timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                text = None  # it has been written
                if sys.stderr.isatty():
                    print(f"\rcompiling for {topology.name}: {_since(started)}", end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise AlignError(_reason(err.splitlines(), topology))
    print(f"\rcompiled for {topology.name} in {_since(started)}", file=sys.stderr)
    return json.loads(out.splitlines()[-1])


def _since(started: float) -> str:
    return duration(time.monotonic() - started)


def _reason(lines: list[str], topology: Target) -> str:
    """Why the process failed: our own word, the compiler's, or the last thing that it said."""
    own = [line.partition("AlignError: ")[2] for line in lines if "AlignError: " in line]
    theirs = [line for line in lines if "Error: " in line or "Check failed" in line] or [*lines, "no reason given"]
    return own[-1] if own else f"{topology.name}: the compiler refuses: {theirs[-1].strip()[:300]}"


def _fingerprint(given: str, compiler: tuple[str, ...]) -> str:
    """Of the question, of our own code, and of what compiles it."""
    versions = [version(package) for package in ("jax", "jaxlib", "flax", "optax", *compiler)]
    return hashlib.blake2b(" ".join((given, code.digest(), *versions)).encode(), digest_size=12).hexdigest()
