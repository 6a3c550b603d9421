"""How every verb starts and fails: a user's mistake is one line and exit status 2, a bug is a traceback."""

import sys
from collections.abc import Callable

import jax
from absl import app, flags

from align_jax.types import AlignError


def main_of(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs `main`."""
    # The second run of a program compiles in a second instead of half a minute.
    if jax.config.jax_compilation_cache_dir is None:
        import os

        cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "align_jax", "xla")
        jax.config.update("jax_compilation_cache_dir", cache)
    app.run(lambda argv: _guarded(lambda: main(argv)), flags_parser=_parse)


def _guarded(call: Callable[[], None]) -> None:
    try:
        call()
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError, ValueError, TypeError, FileNotFoundError, flags.Error) as error:
        text = " ".join(str(error.args[0] if error.args else error).split())
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
