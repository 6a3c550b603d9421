"""A run of the demo's config that is killed at random moments and started again, against one that nobody disturbs.

Half of the kills come at a random time before the first step, while it starts, restores or compiles, the others soon
after one of the next steps. Each must meet a living process.

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

AFTER = 0.2  # seconds after a step in which a kill may come


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
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    flags = parser.parse_args()
    moments = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder) / "calm", Path(folder) / "killed"
        with start(calm, flags.steps) as process:
            assert process.wait() == 0
        until_step = 10.0  # seconds from a start to its first step, as the last life showed
        for number in range(1, flags.kills + 1):
            before = reached(killed)
            with start(killed, flags.steps) as process:
                begun = time.monotonic()
                if number % 2:
                    target = before + moments.randint(1, 2 * flags.steps // flags.kills)
                    while reached(killed) < target and process.poll() is None:
                        time.sleep(0.05)
                        if reached(killed) == before:
                            until_step = time.monotonic() - begun
                    time.sleep(moments.uniform(0, AFTER))
                else:
                    time.sleep(moments.uniform(0, until_step))
                assert process.poll() is None, f"kill {number} came too late: the run was over; give more --steps"
                process.kill()
            print(f"kill {number}: at step {reached(killed)} of {flags.steps}", flush=True)
        with start(killed, flags.steps) as process:
            assert process.wait() == 0
        assert losses(killed) == losses(calm) and len(losses(calm)) == flags.steps, "losses differ"
        one, other = (load_file(run / "export" / "model.safetensors") for run in (calm, killed))
        assert one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)
        print(f"{flags.kills} kills in {flags.steps} steps: the same losses and weights, bit for bit")


def start(workdir: Path, steps: int) -> subprocess.Popen:
    """The run, silent."""
    return subprocess.Popen(command(workdir, steps), stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
