"""ImageBERT's ablations (Qi et al. 2020, Tables 3 and 4) on the demo's scenes: their shape, not their numbers.

python -m align_jax.sweep --config=configs/imagebert_demo.py --sweep=configs/sweeps/imagebert_demo.py \
 --workdir=runs/scenes/ablations

It needs the dual encoder and the regions that `bash launch/demo_imagebert.sh` makes first. The losses of fine-tuning:
configs/sweeps/imagebert_demo_retrieval.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The first row of each group is the demo as it is."""
    return ConfigDict({
        "columns": {
            "image to text R@1": "held_out_scenes/image_to_text/R@1",
            "text to image R@1": "held_out_scenes/text_to_image/R@1",
            "text to image R@10": "held_out_scenes/text_to_image/R@10",
            "of new concepts": "held_out/text_to_image/R@1",
        },
        "seeds": (0,),
        "rows": (
            {"group": "stages", "name": "web, then clean"},
            # As many steps in one stage; of both kinds of data at once, half as much noise.
            {"group": "stages", "name": "both at once", "stages[1].skip": True, "stages[0].data.source.noise": 0.15,
             "steps": 1200},
            {"group": "stages", "name": "clean alone", "stages[0].skip": True, "steps": 1200},
            {"group": "masked region features", "name": "with"},
            {"group": "masked region features", "name": "without", "task.mrfr": 0.0},
            {"group": "regions", "name": "4"},
            {"group": "regions", "name": "2", "data.regions.most": 2},
            {"group": "global feature", "name": "without"},
            {"group": "global feature", "name": "with", "task.global_feature": True},
        ),
    })  # fmt: skip
