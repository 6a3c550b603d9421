"""A page in the browser to search a collection of pictures with, by text, by picture, and by both.

python -m align_jax.search --workdir=runs/demo --data=name=emoji,split=all

The collection is embedded once (start the same command again after a kill and it goes on) and indexed. The page stands
on 127.0.0.1, for this machine alone, and asks no other one for anything.

--data: pairs.jsonl or pairs.csv (align_jax/data/manifest.py), a folder of pictures, or any source of the project as
name=value,name=value or JSON (align_jax/data/source.py).
--rerank: a cross-encoder looks again at the first --rerank_top pictures that a text finds, and orders them anew.
--regions: where those of --data lie, for a cross-encoder that is shown stored regions: one store or several with
commas, in place of config.data.regions.path of its run.
--index_kind: exact (on the devices), flat, hnsw, ivf (FAISS); auto takes exact below 200,000 pictures, else hnsw.
--index_options: of hnsw m=32,ef_construction=200,ef_search=128; of ivf nlist=0 (by the number of pictures),nprobe=32.
"""

import os
from pathlib import Path

from absl import flags

from align_jax.cli import main_of
from align_jax.data.options import parse, source_options
from align_jax.loading import load
from align_jax.searching import index as indexes
from align_jax.searching import page
from align_jax.searching.collection import open_collection
from align_jax.searching.engine import MOST, Engine
from align_jax.searching.reranker import Reranker
from align_jax.types import AlignError

THREADS = min(os.cpu_count() or 1, 8)


def main(_: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    options = source_options(values.data)
    index_options = parse(values.index_options, flag="--index_options")
    indexes.check(values.index_kind, index_options)
    page.check(values.port)
    if values.regions is not None and not values.rerank:
        raise AlignError("--regions: expected with --rerank, whose model is shown them, found none")
    workdir = Path(values.workdir)
    # What is wrong with it is told before the pictures are embedded, which may take hours.
    cross = load(values.rerank, regions=values.regions) if values.rerank else None
    model = load(workdir)
    folder = Path(values.index) if values.index else None
    collection = open_collection(model, options, workdir=workdir, folder=folder)
    index = indexes.open_index(model, collection, values.index_kind, index_options, threads=values.threads)
    print(f"{len(collection):,} pictures in {collection.folder}: {index.described()}", flush=True)
    if collection.problems:
        print(f"left out: {collection.left_out()}", flush=True)
    again = Reranker(cross, collection.source, values.rerank_top) if cross else None
    engine = Engine(model, collection, index, again)
    engine.warm_up()
    page.serve(engine, title=values.title, port=values.port, browser=values.browser)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "a work directory or an export: the model", required=True)
    flags.DEFINE_string("data", None, "the collection: a manifest, a folder, or a source's options", required=True)
    flags.DEFINE_string("index", None, "folder of the embeddings and the index; by default in <workdir>/search")
    flags.DEFINE_string("index_kind", "auto", "auto, exact, flat, hnsw or ivf")
    flags.DEFINE_string("index_options", "", "parameters of the index, name=value,name=value")
    flags.DEFINE_string("rerank", "", "a work directory or an export of a cross-encoder that re-ranks what texts find")
    flags.DEFINE_list("regions", None, "stores of the regions of --data; by default those of the cross-encoder's run")
    flags.DEFINE_integer("rerank_top", 50, "pictures that it re-ranks", lower_bound=1, upper_bound=MOST)
    flags.DEFINE_integer("threads", THREADS, "threads of FAISS", lower_bound=1)
    flags.DEFINE_integer("port", 7860, "port of the page on 127.0.0.1; 0 for any free one", lower_bound=0)
    flags.DEFINE_boolean("browser", False, "opens the page in a browser")
    flags.DEFINE_string("title", "Search pictures", "heading of the page")
    main_of(main)
