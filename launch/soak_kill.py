"""A run of the demo's config that is killed at random moments and started again, against one that nobody disturbs.

Both must write the same losses and end with the same weights, bit for bit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def command(workdir: Path, steps: int) -> list[str]:
    """The training run; it exports its weights at the end."""
    return [
        sys.executable, "-m", "align_jax.main", "--config=configs/align_demo.py", f"--workdir={workdir}",
        f"--config.steps={steps}", "--config.batch_size=64", "--config.task.image.bn_group_size=64",
        "--config.checkpoint.every=5", "--config.log_every=1", "--config.evals={}",
    ]  # fmt: skip


def losses(workdir: Path) -> dict[int, float]:
    """Step -> loss; the last row of a step counts."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    flags = parser.parse_args()
    moments = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder) / "calm", Path(folder) / "killed"
        begun = time.monotonic()
        subprocess.run(command(calm, flags.steps), check=True, stderr=subprocess.DEVNULL)
        length = time.monotonic() - begun
        begun = time.monotonic()  # a second time it has nothing to do but to start
        subprocess.run(command(calm, flags.steps), check=True, stderr=subprocess.DEVNULL)
        start = time.monotonic() - begun
        done = 0
        for _ in range(flags.kills):
            with subprocess.Popen(command(killed, flags.steps), stderr=subprocess.DEVNULL) as process:
                try:
                    status = process.wait(start + moments.uniform(0.2, 1.8) * (length - start) / flags.kills)
                    raise SystemExit(f"it ended by itself, with status {status}, after {done} kills: take more --steps")
                except subprocess.TimeoutExpired:
                    process.kill()
            done += 1
            reached = max(losses(killed), default=0) if (killed / "metrics.jsonl").exists() else 0
            print(f"kill {done}: at step {reached} of {flags.steps}", flush=True)
        subprocess.run(command(killed, flags.steps), check=True, stderr=subprocess.DEVNULL)
        assert losses(killed) == losses(calm), "losses differ"
        one, other = (load_file(run / "export" / "model.safetensors") for run in (calm, killed))
        assert one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)
        print(f"{done} kills in {flags.steps} steps: the same losses and weights, bit for bit")


if __name__ == "__main__":
    main()
