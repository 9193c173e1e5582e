"""Mockingjay and TERA (Liu et al. 2020, 2021): put an altered spectrogram right.

Spans of frames and a band of frequencies are zeroed, spans may be swapped, noise may be added. An
encoder hears the altered frames, and a small head predicts the plain ones by the mean absolute
error over what was altered.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from sacjax.augment.alteration import add_noise, alter_time, draw_band
from sacjax.augment.draws import example_keys
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.activation import gelu
from sacjax.layers.conv import valid, zero_padding
from sacjax.layers.norm import LayerNorm
from sacjax.layers.transformer import NORMAL
from sacjax.models.base import TokenEncoder
from sacjax.objectives.base import (
    LOSS,
    NEIGHBOURS,
    NORMS,
    Display,
    Loss,
    Objective,
    Options,
    build_encoder,
    num_features,
)
from sacjax.views import View


@dataclasses.dataclass(frozen=True)
class MaskedPredictionOptions(Options):
    """`objective.options`; the defaults are TERA's, and Mockingjay's with band_share=0."""

    time_share: float = 0.15  # of the frames, in spans; 0 = none
    time_span: int = 7  # frames
    zero_probability: float = 0.8  # that a clip's spans become zeros
    swap_probability: float = 0.1  # that they become other spans of the clip; else they stay
    band_share: float = 0.2  # of the bands that are zeroed at the most; 0 = none
    noise_probability: float = 0.0  # that noise is added to a clip
    noise_std: float = 0.2
    collapse_patience: int = 20

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("time_span")
        self.require_not_negative("noise_std")
        self.require_shares("time_share", "zero_probability", "swap_probability")
        self.require_shares("band_share", "noise_probability")
        total = self.zero_probability + self.swap_probability
        wanted = "with zero_probability it must not exceed 1"
        self.require(total <= 1 + 1e-9, "swap_probability", wanted)
        if not (self.time_share or self.band_share or self.noise_probability):
            raise UserError(
                "objective.options.time_share, band_share and noise_probability are 0: nothing "
                "would be altered, and nothing learned"
            )


class Altered(NamedTuple):
    """A batch of altered spectrograms."""

    inputs: Float[Array, "batch frames bands"]
    """What the encoder hears."""

    cells: Bool[Array, "batch frames bands"]
    """What is predicted."""


class MaskedPredictionModel(nnx.Module):
    """An encoder of frames with the published head: linear, GELU, layer norm, linear."""

    def __init__(self, encoder: Any, bands: int, rngs: nnx.Rngs):
        """Takes an encoder whose tokens are `encoder.stack` frames, of so many bands."""
        self.encoder, self.bands = encoder, bands
        width = encoder.features
        self.hidden = nnx.Linear(width, width, kernel_init=NORMAL, rngs=rngs)
        self.norm = LayerNorm(width, dtype=jnp.float32, rngs=rngs)
        self.head = nnx.Linear(width, encoder.stack * bands, kernel_init=NORMAL, rngs=rngs)

    def __call__(
        self, altered: Altered, lengths: Int[Array, " batch"], ctx: Context
    ) -> tuple[Float[Array, "batch frames bands"], Int[Array, " batch"]]:
        """Returns (the spectrograms that it takes for the plain ones, float32; frames predicted).

        Frames after the last whole token are not predicted.
        """
        output = self.encoder(altered.inputs, lengths, ctx)
        frames = output.frames.astype(jnp.float32)
        x = self.norm(gelu(self.hidden(frames)))
        x = self.head(x).reshape(len(x), -1, self.bands)
        size = altered.inputs.shape[1]
        x = jnp.pad(x, ((0, 0), (0, max(size - x.shape[1], 0)), (0, 0)))
        return x[:, :size], jnp.minimum(output.lengths * self.encoder.stack, lengths)


class MaskedPrediction(Objective):
    """Mockingjay and TERA: predict what was altered in a spectrogram, by mean absolute error."""

    hears_targets = True
    Options = MaskedPredictionOptions
    options: MaskedPredictionOptions
    advice = (
        "what usually helps: a lower optimizer.learning_rate with a longer warm-up, "
        "frontend.normalize=band, longer clips (data.seconds)"
    )
    display = Display(
        bar={"loss": "train/loss", "gain over the mean": "train/gain_over_mean"},
        panels={
            "loss": LOSS,
            "loss saved over predicting the mean frame, as a share": {
                "train/gain_over_mean": "train",
                "validation/gain_over_mean": "validation",
            },
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for an encoder whose tokens are no frames of a spectrogram."""
        encoder: Any = nnx.eval_shape(lambda: build_encoder(stage, nnx.Rngs(0)))
        if not (isinstance(encoder, TokenEncoder) and getattr(encoder, "stack", None)):
            raise UserError(
                f"objective.name={stage.objective.name} needs an encoder whose tokens are frames "
                "of a spectrogram, such as model.name=spectrogram_transformer with "
                f"model.encoder.patch_bands=None, not '{stage.model.name}'"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        return MaskedPredictionModel(
            build_encoder(self.stage, rngs), num_features(self.stage), rngs
        )

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over altered cells.

        In training, alterations are keyed by the example's row, otherwise by its index in the data
        set.
        """
        view = batch["views"][0]
        view = view._replace(lengths=jnp.where(batch["mask"] > 0, view.lengths, 0))
        key = ctx.rng(0)
        rows = jnp.arange(len(view.lengths)) if ctx.train else batch["index"]
        keys = example_keys(jax.random.key(0) if key is None else key, rows)
        return self.loss_of(model, view, self.alter(keys, view), ctx.child(1))

    def alter(self, keys: jax.Array, view: View) -> Altered:
        """Returns a view altered as the options say, by a key a clip [B]."""
        o = self.options

        def one(key: jax.Array, x: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
            time_key, band_key, noise_key = jax.random.split(key, 3)
            cells = jnp.full(x.shape, not (o.time_share or o.band_share))
            y = x
            if o.time_share:
                y, frames = alter_time(
                    time_key,
                    x,
                    length,
                    share=o.time_share,
                    span=o.time_span,
                    zero=o.zero_probability,
                    swap=o.swap_probability,
                )
                cells = cells | frames[:, None]
            if o.band_share:
                band = draw_band(band_key, x.shape[1], o.band_share)
                y, cells = jnp.where(band, 0, y), cells | band
            if o.noise_probability:
                y = add_noise(noise_key, y, probability=o.noise_probability, std=o.noise_std)
            return y, cells

        inputs, cells = jax.vmap(one)(keys, view.inputs, view.lengths)
        there = valid(view.inputs, view.lengths)
        return Altered(zero_padding(inputs, view.lengths), cells & there)

    def loss_of(self, model: Any, view: View, altered: Altered, ctx: Context) -> Loss:
        """Returns the loss of a view that was altered in a given way."""
        there = valid(view.inputs, view.lengths)
        frames = there.sum().astype(jnp.float32)
        mean = jnp.where(there, view.inputs, 0).sum((0, 1)) / jnp.maximum(frames, 1)
        predicted, lengths = model(altered, view.lengths, ctx)
        cells = altered.cells & valid(view.inputs, lengths)
        count = cells.sum().astype(jnp.float32)
        total, constant = (
            jnp.where(cells, jnp.abs(guess - view.inputs), 0).sum() for guess in (predicted, mean)
        )
        sums = {
            "loss": (total, count),
            "gain_over_mean": (constant - total, constant),
            "altered_share": (count / view.inputs.shape[-1], frames),
        }
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and what it saves."""
        gain = 100 * values.get("gain_over_mean", 0.0)
        return f"loss {values['loss']:.4g}, {gain:.0f} % below predicting the mean frame"

    def health(self, values: dict[str, float]) -> str:
        """Returns what shows in a log line that nothing is learned, or ''."""
        if values.get("gain_over_mean", 1.0) < 0.01:
            return "altered cells are predicted no better than by the mean of all frames"
        return ""
