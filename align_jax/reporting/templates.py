"""How the pages of the house are made: every text is a stranger's, escaped and with its hidden characters shown."""

from pathlib import Path

import jinja2

from align_jax.reporting.text import visible

HERE = Path(__file__).parent  # of page.css, the look that the pages share


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders. A name that a template uses and is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, finalize=visible, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
