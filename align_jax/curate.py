"""From raw pairs to clean, resized shards and a report of what was dropped by which rule.

python -m align_jax.curate --config=configs/curate_align.py --workdir=curated --config.source.path=pairs.jsonl

Run the same command again to continue where it stopped; when all is done it does nothing.

What is global (step B: word frequencies, duplicates) is found by Apache Beam in this process. What follows `--` goes to
Beam: `-- --direct_num_workers=8 --direct_running_mode=multi_processing` takes more processes,
`-- --runner=DataflowRunner --project=...` a service, the same for FlinkRunner and SparkRunner. Workers elsewhere need
align_jax (--sdk_container_image) and the work directory: --workers_see=gs://bucket/curated names it as they see it,
where --workdir is that bucket mounted here.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from align_jax.cli import main_of
from align_jax.curation.embeddings import Embedder
from align_jax.curation.run import curate
from align_jax.types import AlignError

CONFIG = config_flags.DEFINE_config_file("config", None, "the config file, configs/curate_*.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the shards and the report", required=True)
WORKERS_SEE = flags.DEFINE_string("workers_see", "", "the work directory as Beam's workers name it, if otherwise")


def load(checkpoint: str) -> Embedder:
    """The model that embeds pictures and texts."""
    from align_jax.loading import load  # seconds, and only some rules need it

    return load(checkpoint)


def main(argv: list[str]) -> None:
    """Checks the flags."""
    if "://" in WORKDIR.value:
        raise AlignError(f"--workdir: expected a folder, found {WORKDIR.value}; mount the bucket (gcsfuse, NFS)")
    curate(CONFIG.value, Path(WORKDIR.value), load=load, beam=argv[1:], workers_see=WORKERS_SEE.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    main_of(main)
