"""Embeds pictures and their captions to disk, in parts that any number of machines make together.

python -m align_jax.embed --model=runs/demo --data=pairs.jsonl --out=embeddings

The folder is laid out as clip-retrieval's, for its tools and autofaiss (align_jax/embeddings/__init__.py). Start the
same command again after a kill and it goes on. On several hosts that see the folder, start it on each, under Slurm or
with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID as for training: process i of n makes every n-th part
from part i on, and waits for nobody; one that dies is simply started again.

--data: pairs.jsonl or pairs.csv (align_jax/data/manifest.py), a folder of pictures, or any source of the project as
name=value,name=value or JSON (align_jax/data/source.py).
--captions: first: a row for each picture that has a caption, with the first of them; all: a row for each caption,
with the picture's embedding again; none: a row for each picture, and no captions, as for a source or a model without.
"""

import os
from pathlib import Path

import jax
from absl import flags

from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.options import source_options
from align_jax.embeddings.making import CAPTIONS, DTYPES, PART, embed_source, facts_of
from align_jax.embeddings.reader import summary
from align_jax.evals.embedding import READERS
from align_jax.hosts import place as places
from align_jax.loading import load
from align_jax.types import AlignError


def main(_: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    place = places.find(os.environ, places.tpu_vm())
    own, processes = (place.process, place.processes) if place else (0, 1)
    options = source_options(values.data)
    source = sources.make(**options)
    model = load(values.model)
    if jax.process_count() > 1:
        raise AlignError(
            f"embed: expected a process with devices of its own, found {jax.process_count()} that share theirs; on a "
            "TPU slice of several hosts set TPU_PROCESS_BOUNDS=1,1,1 and TPU_CHIPS_PER_PROCESS_BOUNDS to one host's"
        )
    out = Path(values.out)
    facts = facts_of(model, source, options, captions=values.captions, dtype=values.dtype, part_size=values.part_size)
    speed = embed_source(
        model, source, out, facts=facts, batch_size=values.batch_size, threads=values.threads, process=own,
        processes=processes,
    )  # fmt: skip
    print(f"process {own} of {processes}: {speed}" if place else speed)
    print(summary(out))


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "a work directory, one of its checkpoints, or an export", required=True)
    flags.DEFINE_string("data", None, "a manifest, a folder, or a source's options", required=True)
    flags.DEFINE_string("out", None, "folder of the embeddings", required=True)
    flags.DEFINE_enum("captions", "first", CAPTIONS, "which texts of a picture")
    flags.DEFINE_enum("dtype", "float32", DTYPES, "of the embeddings; clip-retrieval itself writes float16")
    flags.DEFINE_integer("part_size", PART, "records of a part: what one process takes at a time", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "pictures at a time, over all devices; by default what suits them", 1)
    flags.DEFINE_integer("threads", READERS, "that read pictures; more where they come over a network", lower_bound=1)
    main_of(main)
