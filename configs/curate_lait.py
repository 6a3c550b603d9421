r"""Curation by the rules of LAIT, the data of ImageBERT, section 3 (Qi et al. 2020).

python -m align_jax.curate --config=configs/curate_lait.py --workdir=curated --config.checkpoint=runs/weak \
  --config.source.path=pairs.jsonl --config.columns=pages.parquet

pages.parquet has a row for each record: id, language, nsfw and realistic (scores in [0, 1] of classifiers of yours),
title, og_description and surrounding (the text around the picture). The paper publishes no threshold but the size.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value. A rule that is not named is not applied."""
    return ConfigDict({
        # Pairs of alt-text and dominant picture, of any source of align_jax/data/source.py.
        "source": {"name": "manifest", "path": ""},
        "evaluation": (),  # sources whose pictures must not be trained on
        "columns": "",  # a parquet with column id and what `measures`, `languages` and `texts.columns` name
        "texts": {
            "columns": ("title", "og_description", "surrounding"),  # candidates beside the alt-text
            "sentences": True,  # each sentence is a candidate of its own
            # Addresses, tags and file names are no words.
            "strip": (r"https?://\S+", r"<[^>]*>", r"\S+\.(?:jpe?g|png|gif|webp)\b"),
        },
        "image": {"size": 346, "quality": 90},  # pixels of the square that is stored; of the JPEG
        "measures": {"unsafe": {"column": "nsfw"}, "realistic": {"column": "realistic"}},
        "languages": {"column": "language"},  # or {"function": "module:function"}, from texts to language codes
        "checkpoint": "",  # a work directory or an export: the weak model that scores pairs
        "rules": {
            "shorter_side": {"above": 300},  # pixels: width and height
            "scores": {"unsafe": {"below": 0.5}, "realistic": {"above": 0.5}},
            "evaluation_pictures": {"bits": 4},  # of the 64 of the perceptual hash
            "language": {"keep": ("en",)},
            "word_count": {"at_least": 3, "at_most": 30},  # the paper's captions have 13 words on average
            "banned_words": {"words": ()},  # spam
            "unknown_words": {"below": 0.2},  # share of unigrams outside the top below
            "semantic_score": {"above": 0.2},  # cosine of picture and text; depends on the model
            "best_text": {},
            "shared_description": {"at_most": 10},  # pictures
        },
        "counting": {"top_ngrams": 1_000_000, "buckets": 64},  # of raw unigrams and bigrams; parts of the tables
        "search": {"clusters": 4096, "nearest": 10, "chosen": 3, "sample": 200_000},  # for evaluation_embeddings
        "output": {"format": "array_record", "records_per_shard": 10_000},  # or webdataset
        "records_per_shard": 2000,  # raw records that are read at once: what a kill can cost
        "threads": 2,  # that read and write; decoding and resizing release the interpreter lock
        "examples": 8,  # pairs that the report shows for each rule
    })  # fmt: skip
