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

SECONDS_A_STEP = 0.1  # about


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


def reached(workdir: Path) -> int:
    """The last step of which it has told; a line that is still being written does not count."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    flags = parser.parse_args()
    moments = random.Random(flags.seed)
    targets = sorted(moments.sample(range(1, flags.steps), flags.kills))
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder) / "calm", Path(folder) / "killed"
        subprocess.run(command(calm, flags.steps), check=True, stderr=subprocess.DEVNULL)
        for done, target in enumerate(targets, 1):
            with subprocess.Popen(command(killed, flags.steps), stderr=subprocess.DEVNULL) as process:
                while reached(killed) < target and process.poll() is None:
                    time.sleep(0.05)
                time.sleep(moments.uniform(0, 2 * SECONDS_A_STEP))
                process.kill()
            print(f"kill {done}: at step {reached(killed)} of {flags.steps}", flush=True)
        subprocess.run(command(killed, flags.steps), check=True, stderr=subprocess.DEVNULL)
        assert losses(killed) == losses(calm), "losses differ"
        one, other = (load_file(run / "export" / "model.safetensors") for run in (calm, killed))
        assert one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)
        print(f"{flags.kills} kills in {flags.steps} steps: the same losses and weights, bit for bit")


if __name__ == "__main__":
    main()
