"""Curation of pairs with known defects, by the real command, twice: time of each step, drops by rule, the second run.

The pairs are made from the emoji's art: composed, scaled, encoded, with defects planted for each rule of
configs/curate_align.py (tests/planted_pairs.py).
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from planted_pairs import Planted

ROOT = Path(__file__).parent.parent


def run(planted: Planted, workdir: Path, threads: int) -> float:
    """Seconds of the command."""
    evaluation = ({"name": "manifest", "path": str(planted.folder / "test.jsonl")},)
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable, "-m", "align_jax.curate", "--config=configs/curate_align.py", f"--workdir={workdir}",
            f"--config.source.path={planted.folder / 'pairs.jsonl'}", f"--config.evaluation={evaluation!r}",
            f"--config.counting.top_ngrams={planted.top_ngrams}", f"--config.threads={threads}",
        ],
        cwd=ROOT, check=True,
    )  # fmt: skip
    return time.perf_counter() - start


def contents(workdir: Path) -> dict[str, str]:
    """Digest of every file, the report among them."""
    paths = sorted(path for path in workdir.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000, help="at least so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder to leave the work directory in")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        planted = Planted(Path(temporary) / "pairs", flags.pairs)
        workdir = flags.keep or Path(temporary) / "out"
        first = run(planted, workdir, flags.threads)
        before = contents(workdir)
        second = run(planted, workdir, flags.threads)
        same = contents(workdir) == before
        report = json.loads((workdir / "report.json").read_text())
    records = report["records"]
    print(f"{'rule':<24}{'planted':>10}{'dropped':>10}")
    for rule, dropped in records["dropped"].items():
        print(f"{rule:<24}{planted.expected[rule]:>10}{dropped:>10}")
    print(f"{'kept':<24}{planted.kept:>10}{records['kept']:>10}")
    for step, seconds in report["seconds"].items():
        print(f"{step:<24}{seconds:>10.1f} s{records['read'] / seconds:>10.0f} records/s")
    print(f"first run {first:.1f} s, second {second:.1f} s, identical: {same}")
    row = {
        "pairs": records["read"], "threads": flags.threads, "seconds": report["seconds"], "first": first,
        "second": second, "identical": same, "planted": dict(planted.expected), "dropped": records["dropped"],
        "kept": records["kept"],
    }  # fmt: skip
    print(json.dumps(row))
    exact = all(count == planted.expected[rule] for rule, count in records["dropped"].items())
    sys.exit(0 if same and exact else 1)


if __name__ == "__main__":
    main()
