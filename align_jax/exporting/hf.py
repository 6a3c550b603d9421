"""Hugging Face: the folder that AlignModel, or EfficientNetForImageClassification, loads, by `interop`."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax import portable
from align_jax.data.pixels import DEFAULT_PIXELS, PIXELS
from align_jax.exporting.subject import Rows, Subject
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Writes the folder. AlignError, by name, for what their models cannot express."""
    save_foreign(huggingface_of(portable.of_run(subject.parts, subject.exact)), folder)
    return {"checked_by": "transformers" if _peer(subject) else "align_jax's reader of that folder"}


def read(subject: Subject, folder: Path) -> dict[str, Rows]:
    """The functions of transformers' own model where torch is installed, else ours with what our reader finds."""
    if not _peer(subject):
        found = open_pretrained(folder)
        return subject.rows(found.params, found.model_state)
    model = _loaded(folder)
    pixels = PIXELS[subject.parts.config.task.get("pixels", DEFAULT_PIXELS)].preprocessing()

    def rows(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        from transformers import BatchFeature

        if "image" in inputs:
            scaled = inputs["image"] * np.asarray(pixels["scale"]) + np.asarray(pixels["offset"])
            given = BatchFeature({"pixel_values": scaled.transpose(0, 3, 1, 2).astype(np.float32)}, tensor_type="pt")
            found = model.get_image_features(**given)
        else:
            named = {"input_ids": inputs["text_ids"], "attention_mask": inputs["text_mask"].astype(np.int64)}
            found = model.get_text_features(**BatchFeature(named, tensor_type="pt"))
        array = found.pooler_output.detach().numpy()
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    return dict.fromkeys(subject.functions, rows)


def _peer(subject: Subject) -> bool:
    """Whether transformers can run the very functions that are asked for."""
    embeds = {"embed_images", "embed_texts"}
    return importlib.util.find_spec("torch") is not None and set(subject.functions) <= embeds


def _loaded(folder: Path) -> Any:
    from transformers import AlignModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AlignModel.from_pretrained(folder).eval()
