"""Ends a run that hangs: after a bounded time without life, with the stacks of all threads in the log."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

HUNG = 76  # exit status: nothing moved; what was saved stands, start again
STDERR = 2  # of the process, whatever sys.stderr is by then
GRACE = 30.0  # seconds after which the interpreter itself is taken to be stuck


class Watchdog:
    """As a context: the process ends with status HUNG when `alive` is not called for `seconds`.

    The stacks go to stderr and to <log>. A thread watches; should even that one not run, because some library holds the
    interpreter, faulthandler's own timer ends the process `GRACE` seconds later, with status 1.
    """

    def __init__(self, seconds: float, *, log: Path, tell: Callable[[str], None]):
        """`tell` takes the one line that says what happened; the clock is monotonic: it may be set meanwhile."""
        self._seconds, self._log, self._tell = seconds, log, tell
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def alive(self) -> None:
        """Something was finished: a step, an evaluation, a checkpoint."""
        self._last = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds + GRACE, exit=True, file=STDERR)

    def __enter__(self) -> "Watchdog":
        self.alive()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 10, 5.0)):
            silent = time.monotonic() - self._last
            if silent > self._seconds:
                self._end(silent)

    def _end(self, silent: float) -> None:
        with self._log.open("a") as log:
            log.write(f"nothing was finished for {silent:.0f} s; the stacks of all threads:\n")
            log.flush()
            faulthandler.dump_traceback(log, all_threads=True)
        faulthandler.dump_traceback(STDERR, all_threads=True)
        self._tell(
            f"error: nothing was finished for {silent:.0f} s (config.watch.minutes); the stacks of all threads are "
            f"above and in {self._log}; start again, the run goes on from its last checkpoint"
        )
        os._exit(HUNG)
