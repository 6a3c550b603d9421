"""Curation by the rules of ALIGN, section 3 (Jia et al. 2021).

python -m align_jax.curate --config=configs/curate_align.py --workdir=curated --config.source.path=pairs.jsonl
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value. A rule that is not named is not applied."""
    return ConfigDict({
        # Any source of align_jax/data/source.py. Its own keys may be set: --config.source.path=..
        "source": {"name": "manifest", "path": ""},
        # Sources whose pictures must not be trained on, by the rule evaluation_pictures:
        # "--config.evaluation=({'name': 'manifest', 'path': 'test.jsonl'},)"
        "evaluation": (),
        "columns": "",  # a parquet with column id and what `measures`, `languages` and `texts.columns` name
        # Which texts are looked at. columns: further candidates; sentences: each is one; strip: regular expressions.
        "texts": {"columns": (), "sentences": False, "strip": ()},
        "image": {"size": 346, "quality": 90},  # pixels of the square that is stored; of the JPEG
        # What the rules `scores` read: {"unsafe": {"column": "nsfw"}} or {"unsafe": {"function": "module:function"}},
        # the function from uint8 [B, size, size, 3] to B numbers, called by all `threads` at once.
        "measures": {},
        "languages": {},
        "checkpoint": "",  # a work directory or an export, for the rule evaluation_embeddings
        "rules": {
            "shorter_side": {"above": 200},  # pixels
            "aspect": {"below": 3.0},  # longer by shorter side
            "evaluation_pictures": {"bits": 4},  # of the 64 of the perceptual hash
            "texts_per_image": {"at_most": 1000},
            "word_count": {"at_least": 3, "at_most": 20},  # unigrams
            "rare_ngrams": {"at_most": 0},  # outside the top below
            "shared_text": {"at_most": 10},  # pictures
        },
        "counting": {"top_ngrams": 100_000_000, "buckets": 64},  # of raw unigrams and bigrams; parts of the tables
        "search": {"clusters": 4096, "nearest": 10, "chosen": 3, "sample": 200_000},  # for evaluation_embeddings
        "output": {"format": "array_record", "records_per_shard": 10_000},  # or webdataset
        "records_per_shard": 2000,  # raw records that are read at once: what a kill can cost
        "threads": 2,  # that read and write; decoding and resizing release the interpreter lock
        "examples": 8,  # pairs that the report shows for each rule
    })  # fmt: skip
