"""Another number of classes for a classifier from elsewhere, where it is asked for."""

import dataclasses
import functools
import tempfile
from pathlib import Path

from align_jax.data import classes
from align_jax.interop.pretrained import Pretrained
from align_jax.types import AlignError


def resize_classes(model: Pretrained, count: int) -> Pretrained:
    """The classifier with `count` classes: as it is, or without class 0 where that is one too many.

    TensorFlow's classifiers of ImageNet may have 1,001, of which the first is the background. AlignError otherwise.
    """
    found = len(model.params["head"]["bias"]) if "head" in model.params else 0
    if found == count:
        return model
    if found != count + 1:
        raise AlignError(
            f"{model.where}: expected a head of {count} classes, or of {count + 1} with a background first, "
            f"found {found}"
        )
    with tempfile.TemporaryDirectory() as folder:
        model.files[classes.FILE](Path(folder) / classes.FILE)
        named = classes.names(None, folder=Path(folder))
    return dataclasses.replace(
        model,
        params={**model.params, "head": {name: x[..., 1:] for name, x in model.params["head"].items()}},
        data={**model.data, "classes": count},
        files={**model.files, classes.FILE: functools.partial(classes.save, named[1:])},
        facts={**model.facts, "classes": f"{count} of {found}: without class 0, {named[0]!r}"},
    )
