"""What objectives over patches of a spectrogram share: their encoder, its grid, its tokens."""

from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from sacjax import models
from sacjax.errors import UserError
from sacjax.objectives.base import build_encoder
from sacjax.objectives.tokens import input_size

ENCODER = "spectrogram_transformer"


def check_patches(stage: ConfigDict, *, class_token: bool) -> None:
    """Raises UserError for another encoder, a crop of one patch, or a class token that is missing.

    Args:
      stage: the config of one stage.
      class_token: whether the objective needs one.
    """
    name = stage.objective.name
    if stage.model.name != ENCODER:
        raise UserError(f"objective.name={name} needs model.name={ENCODER}, not {stage.model.name}")
    models.check(stage.model)
    encoder: Any = nnx.eval_shape(lambda: build_encoder(stage, nnx.Rngs(0)))
    if class_token and not encoder.classes:
        raise UserError(
            f"model.encoder.class_tokens is 0: objective.name={name} learns a class token; set 1"
        )
    tokens = int(encoder.frame_lengths(input_size(stage)))
    if tokens < 2:
        raise UserError(
            f"data.seconds={stage.data.seconds} gives one patch of {encoder.patch[0]} frames and "
            f"{encoder.patch[1]} bands: there is nothing to tell it from; take longer clips, or "
            "smaller model.encoder.patch_frames and patch_bands"
        )


def uniform(keys: jax.Array, size: int) -> jax.Array:
    """Returns numbers in [0, 1), float32 [B, size], of a key each."""
    return jax.vmap(lambda key: jax.random.uniform(key, [size]))(keys)
