"""ImageBERT fine-tuned for retrieval on Flickr30k, or COCO (Qi et al. 2020, sections 4.4 and 5.2).

To reach (Table 2, R@1 image->text and text->image): Flickr30k 87.0, 73.1; COCO 1K 85.4, 73.6; COCO 5K 66.4, 50.5.

python -m align_jax.build --dataset=flickr30k --source=downloads/flickr30k
python -m align_jax.regions --read=tsv --path=flickr30k.tsv --key=stem --out=regions/flickr30k
python -m align_jax.main --config=configs/imagebert_retrieval.py --workdir=runs/imagebert_flickr30k \
  --config.init.checkpoints[0].checkpoint=runs/imagebert/cc_sbu

COCO: --config=configs/imagebert_retrieval.py:coco. Hard negatives, mined by a dual encoder (align_jax.mine) from the
same source: --config.data.negatives.path=negatives.parquet.
"""

from ml_collections import ConfigDict

from align_jax.types import AlignError

# What a pre-trained model gives. Its heads of the masked losses stay behind; all that is here comes from there.
PARTS = ("text_tower", "region_projection", "box_projection", "region_norm", "match_head")
# Name in the config -> data set, how a record's id names its regions, folds of the images in which it is evaluated.
DATA = {
    "flickr30k": ("flickr30k", "stem", 1),  # 29,000 images to train on: 157,084 steps
    "coco": ("coco_karpathy", "number", 5),  # 113,287 images; COCO 1K is the mean over five thousands
}


def get_config(data: str = "flickr30k") -> ConfigDict:
    """Every knob; override with --config.a.b=value. "Ours" is what the paper does not say."""
    if data not in DATA:
        raise AlignError(f"--config: expected one of {', '.join(DATA)} after the colon, found {data!r}")
    dataset, key, folds = DATA[data]
    source = {"name": "tfds", "dataset": dataset, "texts": "captions", "id": "id"}
    return ConfigDict({
        "seed": 0,
        "steps": "130 epochs",  # visits of each image, each with one of its captions
        "batch_size": 24,  # pairs
        "mesh": {"fsdp": 1},  # devices over which parameters are split
        "task": {
            "name": "imagebert_retrieval",
            "text": {  # the stack, with BERT's dropout
                "size": "base", "dropout": 0.1, "attention_dropout": 0.1,
                "remat": "none", "scan": False,  # less memory, faster compilation
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            "global_feature": False,  # as the run to start from has it
            # Weights of the losses (Table 4: binary alone is best).
            "binary": 1.0, "multi_class": 0.0, "triplet": 0.0,
            "margin": 0.2,  # of triplet: ours, as in UNITER
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "dtype": "bfloat16",  # of the stack; parameters and losses are f32
        },
        "data": {
            "source": {**source, "split": "train"},
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 30_522, "path": "", "lowercase": True},  # an empty path: that of the run to start from
            "text_length": 43,  # word pieces with [CLS] and the last [SEP]: 144 with 100 regions and their [SEP]
            "candidates": 2,  # for a text and for an image, the right one among them: ours, as in UNITER
            "directions": "both",  # negative texts for images, negative images for texts; or "text", "image" alone
            "negatives": {"path": "", "hard": 1.0},  # a table of align_jax.mine, and how often a negative is from it
            "regions": {
                "path": f"regions/{data}",  # of align_jax.regions, of all splits together
                "width": 2048,  # numbers of a feature
                "classes": 0,  # of the detector: whatever they are, no loss here asks for them
                "most": 100,  # of an image, the surest; 36 in an ablation (Table 4)
                "key": key,  # how a record's id names its regions: "id", "stem", "number"
                "soft": False,  # distributions over classes, which nothing here asks for
            },
            "threads": 16,  # readers per host
            "prefetch": 4,  # batches read ahead, per reader
            "max_bad_share": 0.01,  # unusable records beyond which the run stops
        },
        # The paper says 5e-5; the rest is ours, as in BERT.
        "optim": {
            "name": "adamw",
            "learning_rate": 5e-5,
            "warmup": 0.1,  # share of the steps
            "schedule": "linear",  # to 0 at the last step
            "weight_decay": 0.01,  # matrices only
            "layer_decay": 1.0,  # factor of the learning rate from one block to the one below it
            "b1": 0.9, "b2": 0.999, "eps": 1e-6,
            "clip_norm": 1.0,  # of the gradient
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 5_000, "minutes": 30.0, "keep": 3, "keep_every": 0, "best": ""},
        "log_every": 100,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone
        # As published: every caption with every image, five million pairs in each fold.
        "evals": {
            "test": {
                "kind": "scored_retrieval", "source": {**source, "split": "test"}, "texts": "all", "captions": 5,
                "folds": folds,
            },
        },
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        "init": {
            "image": "", "text": "",  # published towers, by file, folder or hub name
            "checkpoints": ({"checkpoint": "runs/imagebert/cc_sbu", "paths": {part: part for part in PARTS}},),
        },
        "freeze": (),
        "stages": (),
    })  # fmt: skip
