"""The model card of a folder for transformers: its README.md."""

from typing import Any

CARD = """---
library_name: transformers
tags:
- audio
- sacjax
{pipeline}---

# {title}

{what} It was trained with sacjax and takes mono sound of {rate:,} Hz.

```python
{code}
```
{labels}"""
CLASSIFIER = """from transformers import pipeline

classify = pipeline("audio-classification", model=FOLDER)
classify("sound.wav")"""
ENCODER = """from {module} import {model}

model = {model}.from_pretrained(FOLDER)"""
MODULES = {"WhisperEncoder": "transformers.models.whisper.modeling_whisper"}
"""Of classes that transformers itself does not name."""


def model_card(config: dict[str, Any], preprocessor: dict[str, Any]) -> str:
    """Returns the text of a model card, with the metadata that a hub reads.

    Args:
      config: config.json.
      preprocessor: preprocessor_config.json.
    """
    model, labels = config["architectures"][0], config.get("id2label", {})
    several = config.get("problem_type") == "multi_label_classification"
    module = MODULES.get(model, "transformers")
    what = f"A {model}"
    if labels:
        what += f" of {len(labels)} labels" + (", several of which may hold at once" * several)
    return CARD.format(
        pipeline="pipeline_tag: audio-classification\n" if labels else "",
        title="Audio classifier" if labels else "Audio encoder",
        what=f"{what}.",
        rate=preprocessor["sampling_rate"],
        code=CLASSIFIER if labels else ENCODER.format(module=module, model=model),
        labels=f"\nLabels: {', '.join(map(_code, labels.values()))}.\n" if labels else "",
    )


def _code(label: str) -> str:
    """Returns a label as Markdown's code."""
    if "`" not in label:
        return f"`{label}`"
    fence = "`" * (1 + label.count("`"))
    return f"{fence} {label} {fence}"
