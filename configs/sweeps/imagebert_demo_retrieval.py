"""ImageBERT's losses of fine-tuning (Qi et al. 2020, Table 4) and its negatives, on the demo's scenes.

python -m align_jax.sweep --config=configs/imagebert_demo_retrieval.py \
 --sweep=configs/sweeps/imagebert_demo_retrieval.py --workdir=runs/scenes/losses

It needs what `bash launch/demo_imagebert.sh` makes first.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Rows that are the demo as it is: multi-class, half mined."""

    def weights(binary: float, multi_class: float, triplet: float) -> dict[str, float]:
        return {"task.binary": binary, "task.multi_class": multi_class, "task.triplet": triplet}

    return ConfigDict({
        "columns": {
            "image to text R@1": "held_out_scenes/image_to_text/R@1",
            "text to image R@1": "held_out_scenes/text_to_image/R@1",
            "of new concepts": "held_out/text_to_image/R@1",
        },
        "seeds": (0,),
        "rows": (
            {"group": "loss", "name": "binary", **weights(1.0, 0.0, 0.0)},
            {"group": "loss", "name": "multi-class", **weights(0.0, 1.0, 0.0)},
            {"group": "loss", "name": "triplet", **weights(0.0, 0.0, 1.0)},
            {"group": "loss", "name": "all three", **weights(1.0, 1.0, 1.0)},
            {"group": "negatives", "name": "half mined"},
            {"group": "negatives", "name": "random", "data.negatives.path": ""},
            {"group": "negatives", "name": "mined", "data.negatives.hard": 1.0},
        ),
    })  # fmt: skip
