"""An index of millions of records: time to open it and to look records up, and the memory that stays resident.

The index is written by the index's own writer from records that are made up: ids as webdataset has them, a caption of
about ten words, a place in a shard. Each measurement is a process of its own. Private memory is what the process holds;
mapped memory is pages of the index that the system may drop at any time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from align_jax.data.index import Index, open_index
from align_jax.data.rows import Rows
from align_jax.data.storage import Stored

WORDS = ("a", "dog", "cat", "photo", "of", "the", "house", "café", "red", "in", "street", "river", "old", "market")
PLACES = ("offset", "size")


def scan(file: Stored, rows: Rows) -> None:
    """Makes up the records of a shard; their number is its size."""
    words = np.random.default_rng(0).integers(0, len(WORDS), (file.size, 10)).tolist()
    for number, chosen in enumerate(words):
        text = " ".join(WORDS[word] for word in chosen)
        rows.add(f"{number:09d}", [text], offset=number * 50_000, size=49_000)


def opened(folder: Path, records: int, shards: int) -> Index:
    """The index, written where it is not there yet."""
    files = [Stored(f"/data/{number:05d}.tar", records // shards, "0") for number in range(shards)]
    prefixes = [f"{number:05d}" for number in range(shards)]
    return open_index(folder, files, scan, places=PLACES, prefixes=prefixes, request={"kind": "bench"})


def memory() -> dict[str, float]:
    """Resident megabytes of this process: those of its own, and those mapped from files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"private": int(lines["RssAnon"].split()[0]) / 1e3, "mapped": int(lines["RssFile"].split()[0]) / 1e3}


def measure(what: str, folder: Path, records: int, shards: int) -> dict[str, float]:
    """Opens the index and does one thing; memory is what it added to that of the imports."""
    before = memory()
    start = time.perf_counter()
    index = opened(folder, records, shards)
    seconds = time.perf_counter() - start
    if what == "100,000 lookups":
        numbers = np.random.default_rng(0).integers(0, len(index.rows), 100_000).tolist()
        start = time.perf_counter()
        for number in numbers:
            index.rows.row(number)
        seconds = time.perf_counter() - start
    elif what == "a pass over ids":
        start = time.perf_counter()
        found = sum(value.endswith("7") for chunk in index.rows.column("id").chunks for value in chunk.to_pylist())
        seconds = time.perf_counter() - start
        assert found == len(index.rows) // 10
    after = memory()
    return {"seconds": seconds} | {f"{kind}_mb": after[kind] - before[kind] for kind in after}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the index is kept; by default nowhere")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of one measurement
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure, flags.folder, flags.records, flags.shards)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        start = time.perf_counter()
        index = opened(folder, flags.records, flags.shards)
        size = (folder / "index.arrow").stat().st_size
        report = {"records": len(index.rows), "shards": flags.shards, "bytes": size}
        report |= {"write_seconds": time.perf_counter() - start}
        print(f"{len(index.rows)} records in {flags.shards} shards: {size / 1e6:.0f} MB", flush=True)
        print(f"{'':<18}{'seconds':>10}{'private MB':>12}{'mapped MB':>12}")
        for what in ("opening", "100,000 lookups", "a pass over ids"):
            command = [sys.executable, __file__, f"--folder={folder}", f"--records={flags.records}",
                       f"--shards={flags.shards}", f"--measure={what}"]  # fmt: skip
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"{what:<18}{found['seconds']:>10.3f}{found['private_mb']:>12.1f}{found['mapped_mb']:>12.1f}")
            report[what] = found
    print(json.dumps(report))


if __name__ == "__main__":
    main()
