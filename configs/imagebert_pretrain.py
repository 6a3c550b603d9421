"""ImageBERT pre-trained in two stages (Qi et al. 2020, sections 4 and 5): pairs of the web, then CC and SBU.

python -m align_jax.main --config=configs/imagebert_pretrain.py --workdir=runs/imagebert \
  --config.init.text=models/bert-base-uncased

The regions of each stage are made before, by align_jax.regions, of files with labels (bottom-up attention's own TSV has
none: --config.task.moc=0 --config.data.regions.classes=0); those of another detector than the paper's need its
--config.data.regions.width and --config.data.regions.classes. LAIT was never released: make such data of yours with
configs/curate_lait.py. To leave out its stage, as Table 3 does: --config.stages[0].skip=True.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value. "Ours" is what the paper does not say."""
    captions = {"name": "tfds", "split": "train", "texts": "captions", "id": "id"}
    # A weight is a share of the rows: these make one epoch of each, 3.3 million images and 1 million.
    cc_sbu = {"name": "mixture", "sources": (
        {**captions, "dataset": "cc3m", "weight": 3.3},
        {**captions, "dataset": "sbu_captions", "weight": 1.0},
    )}  # fmt: skip
    return ConfigDict({
        "seed": 0,
        "steps": "17 epochs",  # of each stage: ours, for the paper may mean both together
        "batch_size": 48,  # pairs; whether on each of the paper's 4 GPUs or on all, it does not say
        "mesh": {"fsdp": 1},  # devices over which parameters are split
        "task": {
            "name": "imagebert",
            "text": {  # the stack, with BERT's dropout
                "size": "base", "dropout": 0.1, "attention_dropout": 0.1,
                "remat": "none", "scan": False,  # less memory, faster compilation
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            "global_feature": False,  # one more visual token, the mean of the others (an ablation, Table 4)
            # Weights of the losses (ours, the paper has none): masked words, masked object classes, masked region
            # features, matching. 0 leaves one out.
            "mlm": 1.0, "moc": 1.0, "mrfr": 1.0, "itm": 1.0,
            "hidden": 0.15,  # share of the regions that are predicted
            "zeroed": 0.9,  # share of those whose features are hidden
            "positives_only": True,  # the masked losses count in pairs alone
            "over": "numbers",  # the distance of features is a mean (ours), or with "regions" the paper's sum
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "dtype": "bfloat16",  # of the stack; parameters and losses are f32
        },
        "data": {
            "source": {"name": "array_record", "path": "data/lait"},
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            # An uncased BERT (ours); an empty path: the vocabulary beside the weights of config.init.text.
            "vocab": {"size": 30_522, "path": "", "lowercase": True},
            "text_length": 43,  # word pieces with [CLS] and the last [SEP]: 144 with 100 regions and their [SEP]
            "masking": {
                "share": 0.15,  # of the words that are predicted
                "whole_words": False,  # all pieces of a word, or none
                "predictions": 16,  # most pieces of a text (ours)
            },
            "unmatched": 0.5,  # share of the rows that are no pair (ours)
            "one_modality": False,  # hide words or regions and never both: UNITER's conditional masking
            "negatives": {"path": "", "hard": 1.0},  # a table of align_jax.mine, and how often a negative is from it
            "regions": {
                "path": "regions/lait",  # of align_jax.regions; or several
                "width": 2048,  # numbers of a feature
                "classes": 1600,  # of the detector, Visual Genome's
                "most": 100,  # of an image, the surest; 36 in an ablation (Table 4)
                "key": "id",  # how a record's id names its regions; or "stem", "number"
                "soft": False,  # the detector's distribution over classes as target, in place of the best
            },
            "threads": 16,  # readers per host
            "prefetch": 4,  # batches read ahead, per reader
            "max_bad_share": 0.05,  # unusable records, as those without regions, beyond which the run stops
        },
        # The paper says Adam and 1e-4; the rest is ours, as in BERT.
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-4,
            "warmup": 0.1,  # share of the steps
            "schedule": "linear",  # to 0 at the last step
            "weight_decay": 0.01,  # matrices only
            "layer_decay": 1.0,  # factor of the learning rate from one block to the one below it
            "b1": 0.9, "b2": 0.999, "eps": 1e-6,
            "clip_norm": 1.0,  # of the gradient
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 10_000, "minutes": 30.0, "keep": 3, "keep_every": 0, "best": ""},
        "log_every": 100,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone; a section of evals may have an "every" of its own
        "evals": {},
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        # BERT-base, by folder or hub name; {"checkpoint": run or export, "paths": {from: to}} of runs.
        "init": {"image": "", "text": "google-bert/bert-base-uncased", "checkpoints": ()},
        "freeze": (),
        # Each starts from the weights of the one before, with a fresh optimizer (ours).
        "stages": (
            {"name": "lait", "skip": False},
            {
                "name": "cc_sbu", "skip": False, "data.source": cc_sbu,
                # The ids of a mixture begin with the number of the part.
                "data.regions.path": {"0/": "regions/cc3m", "1/": "regions/sbu"},
            },
        ),
    })  # fmt: skip
