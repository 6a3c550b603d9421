"""The README.md of a folder of weights, as the Hugging Face hub shows it: YAML for programs, then text for people.

What is not known is said to be unknown; a licence is never made up.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from align_jax import paths
from align_jax.interop.pretrained import Pretrained

FILE = "README.md"
UNKNOWN = "unknown"
LICENCE = re.compile(r"^license:[ \t]*['\"]?([a-z0-9][a-z0-9.+-]*)['\"]?[ \t]*$", re.MULTILINE)
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SECTIONS = {"data": "Data", "recipe": "Recipe", "evaluation": "Evaluation"}

ALIGN_USE = """\
```python
from PIL import Image
from transformers import AlignModel, AutoProcessor

model, processor = (kind.from_pretrained("FOLDER") for kind in (AlignModel, AutoProcessor))
inputs = processor(images=Image.open("photo.jpg"), text=["a photo of a cat"], return_tensors="pt")
outputs = model(**inputs)
outputs.image_embeds @ outputs.text_embeds.T  # cosines; divided by the temperature: outputs.logits_per_image
```

In align_jax the same folder is a model too:

```python
import align_jax

model = align_jax.load("FOLDER")
model.embed_images(["photo.jpg"]) @ model.embed_texts(["a photo of a cat"]).T
```"""
TOWER_USE = """\
```python
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")
```

In align_jax it is a tower to start from: `--config.init.{tower}=FOLDER`."""
CLASSIFIER_USE = """\
```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("FOLDER")
processor = AutoImageProcessor.from_pretrained("FOLDER")
```"""


def text(model: Pretrained) -> str:
    """The page of a model that stands in a folder of Hugging Face's layout."""
    facts = {key: value.strip() for key, value in model.facts.items()}
    lines = [_front_matter(model), "", f"# {_title(model)}", "", _summary(model), "", "## Use", "", _use(model)]
    for key, title in SECTIONS.items():
        lines += ["", f"## {title}", "", facts.pop(key, "") or f"{UNKNOWN.capitalize()}: the source does not tell."]
    licence = facts.pop("license", UNKNOWN)
    said = f"`{licence}`, as the source says." if licence != UNKNOWN else "Unknown: the source does not tell. Ask it."
    lines += ["", "## Licence", "", said, *(["", facts.pop("attribution")] if "attribution" in facts else [])]
    facts.pop("datasets", None)
    facts = {"source": model.where} | facts
    lines += ["", "## Origin", "", *(f"- {key.replace('_', ' ')}: {_line(value)}" for key, value in facts.items())]
    if model.ignored:
        lines += ["", "Of the source, this is not part of the model:", ""]
        lines += [f"- {_line(reason)}: {count}" for reason, count in _grouped(model.ignored).items()]
    return "\n".join(lines) + "\n"


def facts_of(folder: Path) -> dict[str, str]:
    """What the card of a folder says of its licence; nothing where it has none, or says nothing."""
    path = folder / FILE
    head = path.read_text("utf-8", errors="replace").split("---")[1:2] if path.is_file() else []
    found = LICENCE.search(head[0]) if head else None
    return {"license": found[1]} if found else {}


def _front_matter(model: Pretrained) -> str:
    kind = model.task.get("name", "tower")
    tags = ["align_jax", *(("align", "image-text") if kind == "align" else (kind,))]
    lines = [f"license: {model.facts.get('license', UNKNOWN)}", "library_name: transformers"]
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    pipelines = {"align": "zero-shot-image-classification", "classify": "image-classification"}
    if kind in pipelines:
        lines.append(f"pipeline_tag: {pipelines[kind]}")
    datasets = [name for name in model.facts.get("datasets", "").split() if HUB_NAME.fullmatch(name)]
    if datasets:
        lines += ["datasets:", *(f"- {name}" for name in datasets)]
    return "\n".join(["---", *lines, "---"])


def _title(model: Pretrained) -> str:
    kinds = {"align": "ALIGN", "classify": "EfficientNet classifier"}
    kind = kinds.get(model.task.get("name", ""))
    return kind or ("EfficientNet image tower" if "image" in model.task else "BERT text tower")


def _summary(model: Pretrained) -> str:
    count = sum(int(np.size(leaf)) for leaf in paths.flatten(model.params).values())
    sizes = [f"{count:,} parameters"]
    if "crop" in model.data:
        sizes.append(f"pictures of {model.data['crop']} x {model.data['crop']} pixels")
    if "text_length" in model.data:
        sizes.append(f"texts of up to {model.data['text_length']} pieces")
    return f"{', '.join(sizes)}. Written by align_jax."


def _use(model: Pretrained) -> str:
    kind = model.task.get("name")
    if kind == "align":
        return ALIGN_USE
    return (
        CLASSIFIER_USE if kind == "classify" else TOWER_USE.format(tower="image" if "image" in model.task else "text")
    )


def _grouped(ignored: Mapping[str, str]) -> dict[str, int]:
    """Reason -> how many names it is given for."""
    found: dict[str, int] = {}
    for reason in ignored.values():
        found[reason] = found.get(reason, 0) + 1
    return found


def _line(value: str) -> str:
    return " ".join(value.split())
