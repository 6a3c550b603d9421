"""All that watches over a run, put together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import jax

from align_jax.metrics import Recorder
from align_jax.types import Mean
from align_jax.watch.non_finite import NonFinite
from align_jax.watch.preemption import Preemption
from align_jax.watch.watchdog import Watchdog


class Watch:
    """As a context around a run; `stop` and `finished` are what `train` asks and tells."""

    def __init__(self, workdir: Path, recorder: Recorder, non_finite: NonFinite, *, minutes: float, metadata: str):
        """`minutes` without a sign of life end the process; `metadata`: address of the machine's metadata server."""
        self._non_finite = non_finite
        self._preemption = Preemption(metadata)
        self._watchdog = Watchdog(
            60 * minutes, log=workdir / "hung.log", tell=lambda text: recorder.event("hung", text)
        )  # fmt: skip
        self._contexts = ExitStack()

    def stop(self, step: int) -> bool:
        """Whether the run was told to end after `step` steps."""
        return self._preemption.requested(step)

    def finished(self, step: int, metrics: Mapping[str, Mean], norms: jax.Array) -> None:
        """Waits for step number `step`, which then counts as a sign of life."""
        jax.block_until_ready((metrics, norms))
        self.alive()
        self._non_finite.see(step, metrics, norms)

    def alive(self) -> None:
        """Something else than a step was finished."""
        self._watchdog.alive()

    def __enter__(self) -> Watch:
        self._contexts.enter_context(self._preemption)
        self._contexts.enter_context(self._watchdog)
        return self

    def __exit__(self, *error: object) -> None:
        self._contexts.close()
