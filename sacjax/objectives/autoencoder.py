"""Autoencoding: encode a spectrogram, decode it, and compare, by the mean squared error.

The `autoencoder` encoder is decoded by its mirror. Any other encoder of spectrograms is decoded
frame by frame: two linear layers make of each of its frames the stretch of spectrogram that it
stands for.

A bottleneck or a corruption keeps it from learning the identity (Vincent et al. 2008): noise is
added to the input alone (`noise`), or the clip as it is must be found from the augmented one
(`target='clean'`).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from sacjax import augment, models
from sacjax.augment.draws import example_keys
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import valid
from sacjax.models.autoencoder import SLOPE, Autoencoder, activation
from sacjax.models.base import EncoderOutput
from sacjax.objectives.base import (
    LOSS,
    NEIGHBOURS,
    NORMS,
    Display,
    Loss,
    Objective,
    Options,
    Sums,
    build_encoder,
    num_features,
)
from sacjax.parts import part
from sacjax.train import metrics

LONG = 4096
"""Frames of the clip by which an encoder's stride is measured."""


@dataclasses.dataclass(frozen=True)
class AutoencoderOptions(Options):
    """`objective.options` of the autoencoder."""

    noise: float = 0.0  # standard deviation of what is added to the input's cells in training
    target: Literal["view", "clean"] = "view"  # the augmented clip, or the clip as it is
    activate_output: bool = False  # the last layer's too; a ReLU gives no negative decibels
    hidden: int = 512  # width inside the decoder of encoders that have no mirror

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("hidden")
        self.require_not_negative("noise")


class FrameDecoder(nnx.Module):
    """From each frame of an encoder to the frames of the spectrogram that it stands for."""

    def __init__(self, features: int, hidden: int, stride: int, bands: int, rngs: nnx.Rngs):
        """Takes the sizes: a frame of so many features stands for `stride` frames of `bands`."""
        self.stride, self.bands = stride, bands
        self.first = nnx.Linear(features, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, stride * bands, rngs=rngs)

    def __call__(
        self, output: EncoderOutput, ctx: Context
    ) -> tuple[Float[Array, "batch frames bands"], Int[Array, " batch"]]:
        """Returns (spectrograms, the frames that are decoded of each clip)."""
        x = self.second(nnx.leaky_relu(self.first(output.frames.astype(jnp.float32)), SLOPE))
        return x.reshape(len(x), -1, self.bands), output.lengths * self.stride


class AutoencoderModel(nnx.Module):
    """An encoder of spectrograms and its decoder."""

    def __init__(self, encoder: Any, decoder: Any, activate: bool):
        """Takes both, and whether the encoder's activation follows the decoder's last layer."""
        self.encoder, self.decoder, self.activate = encoder, decoder, activate

    @part("decoder")
    def decode(
        self, output: EncoderOutput, ctx: Context
    ) -> tuple[Float[Array, "batch frames bands"], Int[Array, " batch"]]:
        """Returns (spectrograms, the frames that are decoded of each clip)."""
        x, reached = self.decoder(output, ctx)
        if self.activate:
            ours = isinstance(self.encoder, Autoencoder)
            x = activation(x, self.encoder.options.variant if ours else "improved")
        return x, reached


class AutoencoderObjective(Objective):
    """Autoencoder: reconstruct the spectrogram by mean squared error, plain or denoising."""

    hears_targets = True
    Options = AutoencoderOptions
    options: AutoencoderOptions
    advice = (
        "what usually helps: a lower optimizer.learning_rate, the encoder's variant 'improved', a "
        "normalized spectrogram"
    )
    display = Display(
        bar={"loss": "train/loss", "explained": "train/explained"},
        panels={
            "loss": LOSS,
            "share of the variance that is explained": {
                "train/explained": "train",
                "validation/explained": "validation",
            },
            "spread of the codes, 0 = all alike": {"train/code_spread": "train"},
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for waveforms, patches, and a target that is elsewhere in time."""
        if models.input_kind(stage.model) != "spectrogram":
            raise UserError(
                f"objective.name is autoencoder, which reconstructs spectrograms, but model.name "
                f"{stage.model.name} hears waveforms: choose an encoder of spectrograms"
            )
        moved = augment.moves_in_time(stage.augment, stage.data.seconds)
        if stage.objective.options.get("target", "view") == "clean" and moved:
            raise UserError(
                f"objective.options.target is 'clean', but {moved} moves the sound in time: leave "
                "it out, or reconstruct the 'view'"
            )
        if stage.model.name != "autoencoder":
            stride_of(stage)

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns encoder and decoder with fresh parameters."""
        encoder = build_encoder(self.stage, rngs)
        if isinstance(encoder, Autoencoder):
            return AutoencoderModel(encoder, encoder.mirror(rngs), self.options.activate_output)
        sizes = self.options.hidden, stride_of(self.stage), num_features(self.stage)
        decoder = FrameDecoder(encoder.features, *sizes, rngs)
        return AutoencoderModel(encoder, decoder, self.options.activate_output)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the squared error, its mean over the valid cells of the spectrograms."""
        view = batch["views"][0]
        target = (view if self.options.target == "view" else batch["clean"]).inputs
        heard = view.inputs
        if ctx.train and self.options.noise:
            key = ctx.rng(0)
            assert key is not None
            keys = example_keys(key, jnp.arange(len(heard)))
            drawn = jax.vmap(lambda key: jax.random.normal(key, heard.shape[1:]))(keys)
            heard = heard + self.options.noise * drawn
        output = model.encoder(heard, view.lengths, ctx.child(1))
        decoded, reached = model.decode(output, ctx.child(2))
        decoded = fit_frames(decoded, target.shape[1]).astype(jnp.float32)
        inside = valid(target, jnp.minimum(view.lengths, reached))
        inside = inside & (batch["mask"] > 0)[:, None, None]
        count = (inside.sum() * target.shape[-1]).astype(jnp.float32)
        error = jnp.where(inside, jnp.square(decoded - target), 0).sum()
        sums = {
            "loss": (error, count),
            "target_variance": (variation(target, inside), count),
            "code_spread": (code_spread(output, batch["mask"]), jnp.ones([])),
        }
        return Loss(error, count, jax.lax.stop_gradient(sums))

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns the metrics, and the share of the variance that the reconstruction explains."""
        values = metrics.means(sums)
        if values.get("target_variance", 0.0) > 0:
            values["explained"] = 1 - values["loss"] / values["target_variance"]
        return values

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and the share of the variance that is explained."""
        share = 100 * values.get("explained", 0.0)
        return f"loss {values['loss']:.4g}, {share:.1f} % of the variance explained"

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        spread = values.get("code_spread", 1.0)
        if spread >= 0.01:
            return ""
        return f"code_spread is {spread:.2g} of 1: all clips have nearly one code"

    def verdict(self, values: dict[str, float]) -> str:
        """Returns a warning where each band's mean would be as good a reconstruction."""
        if values.get("explained", 1.0) > 0:
            return ""
        return f"reconstructs no better than each band's mean; {self.advice}, more steps"


def stride_of(stage: ConfigDict) -> int:
    """Returns how many frames of the spectrogram a frame of the stage's encoder stands for.

    Raises:
      UserError: an encoder that gives more frames than the spectrogram has.
    """
    bands = num_features(stage)

    def frames() -> Any:
        encoder = models.build_encoder(stage.model, num_features=bands, rngs=nnx.Rngs(0))
        return encoder(jnp.zeros([1, LONG, bands]), jnp.full([1], LONG)).frames

    encoder: Any = nnx.eval_shape(
        lambda: models.build_encoder(stage.model, num_features=bands, rngs=nnx.Rngs(0))
    )
    count = nnx.eval_shape(frames).shape[1]
    if count > LONG or getattr(encoder, "bands", 1) > 1:  # several patches side by side in time
        raise UserError(
            f"model.name {stage.model.name} gives more than one frame for a frame of the "
            f"spectrogram, which objective.name {stage.objective.name} cannot decode: choose "
            "patches as high as the spectrogram, or another encoder"
        )
    return round(LONG / count)


def fit_frames(
    x: Float[Array, "batch frames bands"], size: int
) -> Float[Array, "batch size bands"]:
    """Returns spectrograms cut, or filled up with zeros, to so many frames."""
    return jnp.pad(x[:, :size], ((0, 0), (0, max(size - x.shape[1], 0)), (0, 0)))


def variation(
    x: Float[Array, "batch frames bands"], inside: Bool[Array, "batch frames 1"]
) -> Float[Array, ""]:
    """Returns the sum over cells of the squared distance from their band's mean in the batch."""
    mean = jnp.where(inside, x, 0).sum((0, 1)) / jnp.maximum(inside.sum(), 1)
    return jnp.where(inside, jnp.square(x - mean), 0).sum()


def code_spread(output: EncoderOutput, mask: Float[Array, " batch"]) -> Float[Array, ""]:
    """Returns the codes' standard deviation over their root mean square, 0 to 1."""
    x = output.frames.astype(jnp.float32)
    inside = valid(x, output.lengths) & (mask > 0)[:, None, None]
    count = jnp.maximum(inside.sum(), 1)
    mean = jnp.where(inside, x, 0).sum((0, 1)) / count
    variance = jnp.where(inside, jnp.square(x - mean), 0).sum() / count
    square = jnp.where(inside, jnp.square(x), 0).sum() / count
    return jnp.sqrt(variance / jnp.maximum(square, 1e-12))
