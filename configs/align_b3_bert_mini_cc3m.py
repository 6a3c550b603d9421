"""EfficientNet-B3 + BERT-mini on CC3M: the one published target within a small budget (paper Table 9, COYO cc3m.flags).

To reach: COCO zero-shot 22.1 image->text, 17.3 text->image R@1; ImageNet kNN 48.9 (paper Table 9).


python -m align_jax.main --config=configs/align_b3_bert_mini_cc3m.py --workdir=runs/align_b3_cc3m
Put your pairs where data.source says, or override --config.data.source.path.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    return ConfigDict({
        "seed": 0,
        "steps": 100_000,
        "batch_size": 16_384,  # pairs
        "mesh": {"fsdp": 1},  # devices over which parameters are split
        "task": {
            "name": "align",
            "image": {
                "variant": "b3",  # width 1.2, depth 1.4, no head convolution: 384 features
                "bn_group_size": 16,  # rows that share BatchNorm statistics: only so does CC3M reproduce the paper
                "stochastic_depth": 0.2,  # of the last block, rising from 0; unstated in the paper, EfficientNet's own
                "padding": "hf",  # 289 px is odd: so padded, the weights fit Hugging Face's AlignModel
                "remat": "none",  # what the backward pass computes anew: "none", or all of each "block"
                "scan": False,  # equal blocks as one loop: faster compilation, more memory
                "locked": 0,  # first blocks, with the stem, that stay as they are; -1: all
            },
            # Dropout as in BERT.
            "text": {
                "size": "mini", "dropout": 0.1, "attention_dropout": 0.1,
                "remat": "none", "scan": False,
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            "text_pooling": "cls",  # what stands for a text, or "mean" over its pieces
            "frozen_statistics": False,  # BatchNorm with its running statistics, which stay, in training too
            "embedding": 640,  # all of the paper's ablations embed in 640 dimensions
            "image_projection": True,  # from B3's 384 features
            "temperature": 1.0,  # at the start; learnt, ends near 1/64
            "objective": "softmax",  # or "sigmoid", which takes no label smoothing
            "label_smoothing": 0.1,  # in both softmaxes
            "negatives": 1.0,  # share of the in-batch negatives that count
            "duplicates": "negatives",  # rows of the same group or text: "negatives" (paper), "shared" or "ignored"
            "loss_form": "dense",  # "streamed", "ring": less memory, the same loss
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "dtype": "bfloat16",  # of the towers; parameters, statistics and the loss are f32
        },
        "data": {
            "source": {"name": "manifest", "path": "data/cc3m.jsonl"},
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 30_522, "path": "data/vocab.txt", "lowercase": True},  # bert-base-uncased's vocab.txt
            "resize": 346,  # pixels, aspect not kept
            "crop": 289,  # pixels: random in training, central in evaluation
            "flip": True,
            "text_length": 64,  # word pieces
            "threads": 16,  # readers per host
            "prefetch": 4,  # batches read ahead, per reader
            "features": False,  # of locked towers: computed once, from central windows, without flips
            "max_bad_share": 0.01,  # unusable records beyond which the run stops
        },
        "optim": {
            "name": "lamb",
            "learning_rate": 5e-3,
            "warmup": 10_000,  # steps from 0
            "schedule": "linear",  # to 0 at the last step
            "weight_decay": 1e-5,  # matrices only
            "layer_decay": 1.0,  # factor of the learning rate from one block to the one below it
            "b1": 0.9, "b2": 0.999, "eps": 1e-6,  # unstated in the paper
            "bounds": (("log_temperature", -6.0, None),),  # a floor of 1/403, out of the way of 1/64
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 5_000, "minutes": 30.0, "keep": 3, "keep_every": 0, "best": ""},
        "log_every": 100,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone; a section of evals may have an "every" of its own
        "evals": {
            # Both ways between pairs that are kept apart: another manifest of the same form.
            "held_out": {"kind": "retrieval", "source": {"name": "manifest", "path": "data/held_out.jsonl"}},
        },
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        # Published towers, by file, folder or hub name; {"checkpoint": run or export, "paths": {from: to}} of runs.
        "init": {"image": "", "text": "", "checkpoints": ()},
        "freeze": (),
        "stages": (),
    })  # fmt: skip
