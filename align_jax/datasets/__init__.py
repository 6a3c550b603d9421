"""Builders of data sets that tfds lacks, from the files that a user has downloaded. Importing this registers them.

`python -m align_jax.build` builds one. So does `tfds build NAME --imports=align_jax.datasets --manual_dir=DIR`, where
TensorFlow is installed: that program needs it, the builders do not. The docstring of each says what to download and how
the folder must look. Images go in as they are, byte for byte.
"""

from align_jax.datasets.builder import Builder
from align_jax.datasets.cc3m import Cc3m
from align_jax.datasets.cc12m import Cc12m
from align_jax.datasets.coco_karpathy import CocoKarpathy
from align_jax.datasets.crisscrossed_captions import CrisscrossedCaptions
from align_jax.datasets.flickr30k import Flickr30k
from align_jax.datasets.multi30k import Multi30k
from align_jax.datasets.sbu_captions import SbuCaptions
from align_jax.datasets.visual_genome import VisualGenome

BUILDERS: dict[str, type[Builder]] = {
    cls.name: cls
    for cls in (Cc3m, Cc12m, CocoKarpathy, CrisscrossedCaptions, Flickr30k, Multi30k, SbuCaptions, VisualGenome)
}
