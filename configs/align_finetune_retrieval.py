"""The paper's model fine-tuned for retrieval on Flickr30k, or COCO (Jia et al. 2021, section 5.1).

To reach (Table 1, R@1 image->text and text->image): Flickr30k 95.3, 84.9; COCO 77.0, 59.9.

python -m align_jax.build --dataset=flickr30k --source=downloads/flickr30k
python -m align_jax.main --config=configs/align_finetune_retrieval.py --workdir=runs/flickr30k \
  "--config.init.checkpoints=({'checkpoint': 'runs/align_l2', 'paths': {'': ''}},)" \
  --config.data.vocab.path=runs/align_l2/vocab.txt

COCO: --config.steps=6000 --config.data.source.dataset=coco_karpathy --config.data.source.split=train
--config.evals.test.source.dataset=coco_karpathy
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    flickr = {"name": "tfds", "dataset": "flickr30k", "texts": "captions", "id": "id"}
    return ConfigDict({
        "seed": 0,
        "steps": 3_000,
        "batch_size": 2_048,  # pairs
        "mesh": {"fsdp": 1},  # devices over which parameters are split
        "task": {
            "name": "align",
            "image": {
                "variant": "l2",  # width 4.3, depth 5.3, no head convolution: 1376 features
                "bn_group_size": 16,  # rows that share BatchNorm statistics: the paper's per-core batch
                "stochastic_depth": 0.2,  # of the last block, rising from 0; unstated in the paper, EfficientNet's own
                "padding": "hf",  # 289 px is odd: so padded, the weights fit Hugging Face's AlignModel
                "remat": "block",  # what the backward pass computes anew: "none", or all of each "block"
                "scan": True,  # equal blocks as one loop: compiles in minutes
                "locked": 0,  # first blocks, with the stem, that stay as they are; -1: all
            },
            # Dropout as in BERT.
            "text": {
                "size": "large", "dropout": 0.1, "attention_dropout": 0.1,
                "remat": "block", "scan": True,
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            "text_pooling": "cls",  # what stands for a text, or "mean" over its pieces
            "frozen_statistics": False,  # BatchNorm with its running statistics, which stay, in training too
            "embedding": 1376,  # the image tower's width: no image projection
            "image_projection": False,
            "temperature": 0.015625,  # taken from the run to start from, and learnt on
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
            "source": {**flickr, "split": "train+val"},
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 100_000, "path": "runs/align_l2/vocab.txt", "lowercase": True},  # that run's
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
            "learning_rate": 1e-5,
            "warmup": 0,  # steps from 0; unstated in the paper
            "schedule": "linear",  # to 0 at the last step
            "weight_decay": 1e-5,  # matrices only
            "layer_decay": 1.0,  # factor of the learning rate from one block to the one below it
            "b1": 0.9, "b2": 0.999, "eps": 1e-6,  # unstated in the paper
            "bounds": (("log_temperature", -6.0, None),),  # a floor of 1/403, out of the way of 1/64
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 500, "minutes": 30.0, "keep": 3, "keep_every": 0, "best": ""},
        "log_every": 100,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone
        # As published: each caption counts, five of an image.
        "evals": {
            "test": {"kind": "retrieval", "source": {**flickr, "split": "test"}, "texts": "all", "captions": 5},
        },
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        "init": {
            "image": "", "text": "",  # published towers, by file, folder or hub name
            "checkpoints": ({"checkpoint": "runs/align_l2", "paths": {"": ""}},),
        },
        "freeze": (),
        "stages": (),
    })  # fmt: skip
