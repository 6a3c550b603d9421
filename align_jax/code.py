"""Names the code that runs, edits that no version number knows included."""

import hashlib
from pathlib import Path


def digest() -> str:
    """Of all source files of the package: 16 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
