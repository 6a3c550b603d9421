"""How every verb starts and fails: a user's mistake is one line and exit status 2, a bug is a traceback."""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import app, flags, logging

from align_jax.cache import cache_folder
from align_jax.types import AlignError


def main_of(main: Callable[[list[str]], int | None], *, apart: str | None = None) -> None:
    """Parses the flags and runs `main`, whose result is the exit status.

    `main` takes the name of the program and what is no flag, then the arguments that begin with `apart`, unparsed.
    """
    # The second run of a program compiles in a second instead of half a minute.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    # jax would tell of each accelerator that is not there; absl raises a verbosity that nobody set to INFO.
    flags.FLAGS.verbosity = logging.WARNING
    app.run(lambda argv: _guarded(lambda: main(argv)), flags_parser=lambda argv: _parse(argv, apart))


def _guarded(call: Callable[[], int | None]) -> int | None:
    try:
        return call()
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        _end(2)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} ended by the error above; if that tells of "
            "a connection or a barrier, another process has ended before, and its output says why; start all again, "
            "they go on from the last checkpoint",
            file=sys.stderr,
        )
        _end(1)


def _parse(argv: list[str], apart: str | None = None) -> list[str]:
    left = [argument for argument in argv if apart and argument.startswith(apart)]
    try:
        return flags.FLAGS([argument for argument in argv if argument not in left]) + left
    except LookupError as error:  # the index of a stage, too
        _fail(f"--config: expected a key that the config has, found {error}")
    except (AlignError, AttributeError, ValueError, TypeError, OSError, flags.Error) as error:
        _fail(" ".join(str(error.args[0] if error.args else error).split()))


def _fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def _end(status: int) -> NoReturn:
    # An orderly end would wait for other processes, which wait for this one, and for threads of libraries, which would
    # add what they think of the failure to the one line that tells it.
    if jax.distributed.is_initialized() or threading.active_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
