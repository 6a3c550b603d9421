"""ALIGN's ablations (Jia et al. 2021, Tables 8 and 9, Figure 3) on the demo's data: their shape, not their numbers.

python -m align_jax.sweep --config=configs/align_demo.py --sweep=configs/sweeps/align_demo.py --workdir=runs/ablations
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The first row of each group is the demo as it is."""
    fixed = ("log_temperature",)
    narrow = ((1, 3, 2, 24), (2, 3, 3, 48), (3, 3, 3, 96))  # half the channels of the image tower
    short = {
        "task.text": {
            "size": "tiny",
            "layers": 1,
            "width": 64,
            "heads": 1,
            "mlp_width": 256,
            "dropout": 0.05,
            "attention_dropout": 0.05,
            "remat": "none",
            "scan": False,
        }
    }
    return ConfigDict({
        "columns": {
            "image to text R@1": "trained/image_to_text/R@1",
            "text to image R@1": "trained/text_to_image/R@1",
            "category by neighbour": "held_out_neighbours/top1@1",
        },
        "seeds": (0,),
        "rows": (
            {"group": "embedding size", "name": "128"},
            {"group": "embedding size", "name": "64", "task.embedding": 64},
            {"group": "embedding size", "name": "32", "task.embedding": 32},
            {"group": "embedding size", "name": "16", "task.embedding": 16},
            {"group": "temperature", "name": "learned"},
            {"group": "temperature", "name": "1/128", "task.temperature": 1 / 128, "freeze": fixed},
            {"group": "temperature", "name": "1/64", "task.temperature": 1 / 64, "freeze": fixed},
            {"group": "temperature", "name": "1/32", "task.temperature": 1 / 32, "freeze": fixed},
            {"group": "share of negatives", "name": "100 %"},
            {"group": "share of negatives", "name": "50 %", "task.negatives": 0.5},
            {"group": "share of negatives", "name": "25 %", "task.negatives": 0.25},
            {"group": "share of data", "name": "100 %"},
            {"group": "share of data", "name": "50 %", "data.source.share": 0.5},
            {"group": "share of data", "name": "10 %", "data.source.share": 0.1},
            {"group": "towers", "name": "image 192, text 2 x 128"},
            {"group": "towers", "name": "image 96, text 2 x 128", "task.image.stages": narrow},
            {"group": "towers", "name": "image 192, text 1 x 64", **short},
            {"group": "towers", "name": "image 96, text 1 x 64", "task.image.stages": narrow, **short},
        ),
    })  # fmt: skip
