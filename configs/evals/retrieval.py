"""Retrieval as published (ALIGN, tables 1, 2, 3 and 11): Flickr30k, COCO, Crisscrossed Captions and Multi30k.

python -m align_jax.evaluate --checkpoint=RUN --evals=configs/evals/retrieval.py

The data sets are those of `python -m align_jax.build --list`, in tfds' default folder or in $TFDS_DATA_DIR.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Evaluator sections by name."""

    def tfds(dataset: str, split: str, **options: str) -> dict[str, str]:
        return {"name": "tfds", "dataset": dataset, "split": split, "texts": "captions", "id": "id", **options}

    def coco(split: str) -> dict[str, str]:
        # Named as Crisscrossed Captions name them, so that all sections share one source, embedded once.
        return tfds("coco_karpathy", split, id="image/filename", text_ids="sentence_ids")

    # Each caption counts, equal ones too; of COCO's images with six or seven, the first five.
    published = {"kind": "retrieval", "texts": "all", "captions": 5}
    crisscrossed = {"kind": "crisscrossed", "csv": "Crisscrossed-Captions/data"}  # a clone of its repository

    def multi30k(task: str, language: str) -> dict[str, object]:
        # In English and German five captions an image, written independently; in the others one, translated.
        return {**published, "source": tfds(f"multi30k/{task}", "test", texts=f"captions/{language}")}

    return ConfigDict({
        "flickr30k": {**published, "source": tfds("flickr30k", "test")},
        "coco_5k": {**published, "source": coco("test")},
        "coco_1k": {**published, "source": coco("test"), "folds": 5},
        "crisscrossed_val": {**crisscrossed, "source": coco("val"), "split": "val"},
        "crisscrossed": {**crisscrossed, "source": coco("test"), "split": "test"},
        "multi30k_en": multi30k("task2", "en"),
        "multi30k_de": multi30k("task2", "de"),
        "multi30k_fr": multi30k("task1", "fr"),
        "multi30k_cs": multi30k("task1", "cs"),
    })  # fmt: skip
