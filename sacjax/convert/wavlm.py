"""What WavLM (Chen et al. 2022) has beside wav2vec 2.0: relative positions, gated by the token.

The first layer's file entries hold the table that all layers share.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from sacjax.convert.base import Entry, linear

DEFAULTS = {"num_buckets": 320, "max_bucket_distance": 800}  # of transformers' WavLMConfig


def options(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of `Wav2Vec2` that a config.json tells."""
    return dict(
        relative_buckets=config["num_buckets"], relative_distance=config["max_bucket_distance"]
    )


def config(options: dict[str, Any]) -> dict[str, Any]:
    """Returns what config.json tells of the options of `Wav2Vec2`."""
    return dict(
        num_buckets=options["relative_buckets"], max_bucket_distance=options["relative_distance"]
    )


def table_entry(theirs: str, ours: tuple) -> Entry:
    """Returns the table that all layers share, by the name of the first layer's attention."""
    return Entry(f"{theirs}.rel_attn_embed.weight", (*ours, "relative", "table"))


def gate_entries(theirs: str, ours: tuple, layer: int) -> Iterator[Entry]:
    """Yields the tensors of a layer's gate."""
    yield from linear(f"{theirs}.gru_rel_pos_linear", (*ours, "linear"), layer)
    scale = f"{theirs}.gru_rel_pos_const"
    yield Entry(scale, (*ours, "scale"), layer, np.ravel, lambda x: x.reshape(1, -1, 1, 1))
