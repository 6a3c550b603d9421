"""Told to stop: SIGTERM (Slurm, Kubernetes, spot machines) and the maintenance notices of Google's machines.

The run saves at the next step boundary and ends with status PREEMPTED, on which the launchers start it again.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from urllib.request import Request, urlopen

import jax
from jax.experimental import multihost_utils

PREEMPTED = 75  # exit status (sysexits' EX_TEMPFAIL): stopped and saved before it was done; start again
INSTANCE = "/computeMetadata/v1/instance/"
NOTICES = {"maintenance-event": "NONE", "preempted": "FALSE"}  # what each says while nothing is to come
PAUSE = 10.0  # seconds between two attempts at a server that does not answer


class Preemption:
    """As a context: `requested(step)` becomes true, at the same step on all processes, once any of them was told."""

    def __init__(self, metadata: str = ""):
        """`metadata`: address of the machine's metadata server; empty where it has none."""
        self._metadata = metadata
        self._told = threading.Event()
        self._before: Callable[[int, FrameType | None], object] | int | None = None

    def requested(self, step: int) -> bool:
        """To be asked by every process at every step."""
        if jax.process_count() > 1:  # the runtime takes SIGTERM and agrees on a step with the others
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told.is_set()

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, lambda *_: self._told.set())
        for notice in NOTICES if self._metadata else ():
            threading.Thread(target=self._listen, args=(notice,), name=notice, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _listen(self, notice: str) -> None:
        """Waits for the notice to change, and passes it on as the signal that all else understands."""
        request = Request(
            f"{self._metadata}{INSTANCE}{notice}?wait_for_change=true&timeout_sec=60",
            headers={"Metadata-Flavor": "Google"},
        )
        while True:
            try:
                with urlopen(request, timeout=90) as reply:
                    found = reply.read().decode().strip()
            except OSError:
                time.sleep(PAUSE)
                continue
            if found not in ("", NOTICES[notice]):
                os.kill(os.getpid(), signal.SIGTERM)
                return
