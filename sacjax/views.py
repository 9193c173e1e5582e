"""From a batch of audio to a model's inputs, on the accelerator: augment → front end → augment."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sacjax import augment, models
from sacjax.augment.draws import example_keys
from sacjax.frontend import make_frontend


def make_preprocess(stage: ConfigDict, num_classes: int) -> Callable[..., dict[str, Any]]:
    """Returns `preprocess(batch, key=None)`, pure and jit-able.

    The batch has `audio` [B, T] (int16, or float32 in [-1, 1]), `length` [B], `label` [B] or [B, C], `mask` [B]. The result has
    `inputs` (float32 [B, T] or [B, frames, features]), `input_length` [B], `label` float32 [B, C], `mask` and `index`.
    With a key the config's augmentations are applied.
    """
    config, sample_rate = stage.augment, stage.data.sample_rate
    spectrogram = models.input_kind(stage.model) == "spectrogram"
    frontend = make_frontend(stage.frontend, sample_rate) if spectrogram else None

    def preprocess(batch: dict[str, Any], key: jax.Array | None = None) -> dict[str, Any]:
        x, length, mask = batch["audio"], batch["length"], batch["mask"]
        if x.dtype == jnp.int16:
            x = x.astype(jnp.float32) / 32768
        label = batch["label"]
        if label.ndim == 1:
            label = jax.nn.one_hot(
                label, num_classes, dtype=jnp.float32
            )  # -1, unknown, is a row of zeros
        keys = None if key is None else example_keys(key, jnp.arange(x.shape[0]))
        if keys is not None and config.waveform:
            x, length, label = augment.apply(
                config.waveform,
                keys,
                x,
                length,
                label,
                mask,
                kind="waveform",
                sample_rate=sample_rate,
            )
        if frontend is not None:
            x, length = frontend(x, length)
            if keys is not None and config.spectrogram:
                keys = jax.vmap(lambda k: jax.random.fold_in(k, 1 << 16))(
                    keys
                )  # apart from the waveform's
                x, length, label = augment.apply(
                    config.spectrogram,
                    keys,
                    x,
                    length,
                    label,
                    mask,
                    kind="spectrogram",
                    sample_rate=sample_rate,
                )
        return {
            "inputs": x,
            "input_length": length,
            "label": label,
            "mask": mask,
            "index": batch["index"],
        }

    return preprocess
