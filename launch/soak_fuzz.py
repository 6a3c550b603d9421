"""Mutated files for every reader of foreign bytes: pictures, tar and TFRecord shards.

The tests run a slice of it. Here each slice is a process of its own, so that one that dies, hangs or fills the memory
is seen and the rest goes on; the picture that it died of is kept, and (count, seed) repeat any slice.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

SLICE = 500  # inputs of a process
SECONDS = 900  # for a slice
# The call that reads a slice and gives {outcome: count}; its module is in tests/.
CALLS = {
    "images": "fuzz_images({count}, {seed}, Path({keep!r}))",
    "readers": "fuzz_readers({count}, {seed})",
}
CODE = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
sys.path[:0] = [".", "tests"]
from fuzz_{reader} import fuzz_{reader}
print(json.dumps({call}))
"""


def fuzz(reader: str, count: int, seed: int, keep: Path) -> tuple[dict[str, int], str]:
    """(outcomes, what failed) of one slice in a process of its own."""
    call = CALLS[reader].format(count=count, seed=seed, keep=str(keep))
    command = [sys.executable, "-X", "faulthandler", "-c", CODE.format(reader=reader, call=call)]
    try:
        # libtiff says on standard error what it thinks of each file: shown only where something failed.
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {}, f"{call}: no end after {SECONDS} s"
    if done.returncode:
        return {}, f"{call}: exit status {done.returncode}\n{done.stderr[-2000:]}"
    keep.unlink(missing_ok=True)
    return json.loads(done.stdout), ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0, help="of the first slice; the next ones count up")
    parser.add_argument("--only", choices=sorted(CALLS), help="one reader; all by default")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for pictures that broke a process")
    flags = parser.parse_args()
    flags.keep.mkdir(parents=True, exist_ok=True)
    report, failures = {}, []
    for reader in [flags.only] if flags.only else CALLS:
        outcomes: Counter[str] = Counter()
        for number, start in enumerate(range(0, flags.count, SLICE)):
            seed = flags.seed + number
            found, failed = fuzz(
                reader, min(SLICE, flags.count - start), seed, flags.keep / f"{reader}-{seed}"
            )  # fmt: skip
            outcomes.update(found)
            if failed:
                failures.append(failed)
                print(f"FAILED {failed}", flush=True)
        for outcome, times in outcomes.most_common():
            print(f"{reader:>8}{times:>8}  {outcome}", flush=True)
        report[reader] = {"inputs": outcomes.total(), "outcomes": dict(outcomes)}
    print(json.dumps({**report, "failures": failures}))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
