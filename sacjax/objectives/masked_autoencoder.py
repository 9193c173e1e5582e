"""The masked autoencoder (He et al. 2022), on log-mels Audio-MAE (Huang et al. 2022).

Most patches of a clip are left out. The encoder sees the others alone; a small decoder, which is
thrown away afterwards, tells the pixels of those left out from what the encoder made of the rest.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.layers.masking import Kept, keep_best
from sacjax.layers.positional import sincos_grid
from sacjax.layers.transformer import NORMAL, Transformer
from sacjax.models.base import Tokens
from sacjax.models.spectrogram_transformer import Encoded, SpectrogramTransformer, take
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
)
from sacjax.objectives.masked import example_keys_of, tokens_of
from sacjax.objectives.patches import check_patches, uniform
from sacjax.parts import part
from sacjax.train import metrics

FLAT = 0.995  # of the loss that the mean patch would have: nothing is learned


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoderOptions(Options):
    """`objective.options` of the masked autoencoder; the decoder is for small encoders."""

    mask_ratio: float = 0.75  # share of a clip's patches that is left out; Audio-MAE: 0.8
    normalize_patches: bool = True  # targets of zero mean and unit variance in each patch
    decoder_width: int = 128  # MAE: 512
    decoder_depth: int = 2  # layers; MAE: 8
    decoder_heads: int = 4  # MAE: 16
    collapse_patience: int = 0

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        self.require(0 < self.mask_ratio < 1, "mask_ratio", "it must lie between 0 and 1")
        self.require_positive("decoder_width", "decoder_depth", "decoder_heads")
        divides = self.decoder_width % self.decoder_heads == 0 and self.decoder_width % 4 == 0
        wanted = f"4 and the {self.decoder_heads} heads must divide it"
        self.require(divides, "decoder_width", wanted)


class Decoder(nnx.Module):
    """Tells the pixels of all patches from those encoded: a Transformer with fixed positions."""

    def __init__(
        self,
        encoder: SpectrogramTransformer,
        options: MaskedAutoencoderOptions,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a decoder of an encoder's patches."""
        o, width = options, options.decoder_width
        linear = partial(nnx.Linear, kernel_init=NORMAL, dtype=dtype, rngs=rngs)
        self.embed = linear(encoder.features, width)
        self.mask_token = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), [width]))
        self.transformer = Transformer(
            width,
            o.decoder_depth,
            o.decoder_heads,
            4 * width,
            pre_norm=True,
            epsilon=encoder.norm_epsilon,
            dtype=dtype,
            rngs=rngs,
        )
        self.predict = linear(width, encoder.token_features)
        self.bands = encoder.bands

    @part("decoder")
    def __call__(
        self,
        encoded: Encoded,
        slots: Int[Array, "batch tokens"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> Float[Array, "batch tokens pixels"]:
        """Returns the pixels of every patch, float32.

        Args:
          encoded: class tokens and the kept patches.
          slots: of `Kept`.
          lengths: valid patches of each clip.
          ctx: of this call.
        """
        size = slots.shape[1]
        frames = self.embed(encoded.patches.frames)
        x = take(frames, jnp.minimum(slots, frames.shape[1] - 1))
        gone = (slots >= frames.shape[1])[..., None]
        x = jnp.where(gone, self.mask_token[...].astype(x.dtype), x)
        grid = sincos_grid(size // self.bands, self.bands, x.shape[-1]).reshape(size, -1)
        classes = self.embed(encoded.classes)
        x = jnp.concatenate([classes, x + jnp.asarray(grid, x.dtype)], 1)
        inside = jnp.arange(-classes.shape[1], size) < lengths[:, None]
        inside &= lengths[:, None] > 0
        x, _ = self.transformer(x, inside, ctx)
        return self.predict(x[:, classes.shape[1] :]).astype(jnp.float32)


class MaskedAutoencoderModel(nnx.Module):
    """An encoder of patches and the decoder."""

    def __init__(
        self,
        encoder: SpectrogramTransformer,
        options: MaskedAutoencoderOptions,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Takes an encoder of patches."""
        self.encoder = encoder
        self.decoder = Decoder(encoder, options, dtype, rngs)


class MaskedAutoencoder(Objective):
    """Masked autoencoder: tells the pixels of the patches that the encoder did not see."""

    hears_targets = True
    Options = MaskedAutoencoderOptions
    options: MaskedAutoencoderOptions
    advice = (
        "what usually helps: a longer warm-up, a lower optimizer.learning_rate, a lower "
        "objective.options.mask_ratio, frontend.normalize other than none"
    )
    display = Display(
        panels={
            "loss": LOSS | {"train/mean_patch_loss": "of the mean patch"},
            "loss as a share of the mean patch's": {
                "train/relative_loss": "train",
                "validation/relative_loss": "validation",
            },
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        }
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for another encoder, or a crop of one patch."""
        check_patches(stage, class_token=False)

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        dtype = jnp.dtype(self.stage.model.dtype)
        encoder = build_encoder(self.stage, rngs)
        return MaskedAutoencoderModel(encoder, self.options, dtype, rngs)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over the patches left out.

        In training, they are drawn by the example's row, else by its index in the data set.
        """
        tokens = tokens_of(model.encoder, batch["views"][0], batch["mask"])
        noise = uniform(example_keys_of(batch, ctx), tokens.features.shape[1])
        return self.loss_of(model, tokens, self.draw(noise, tokens.lengths), ctx)

    def draw(self, noise: jax.Array, lengths: jax.Array) -> Kept:
        """Returns the patches of least noise [B, N] of each clip's valid ones [B]."""
        return keep_best(-noise, lengths, 1 - self.options.mask_ratio)

    def loss_of(self, model: Any, tokens: Tokens, kept: Kept, ctx: Context) -> Loss:
        """Returns the loss for given tokens and kept patches."""
        encoded = model.encoder.encode(tokens, ctx.child(1), keep=kept.keep)
        pixels = model.decoder(encoded, kept.slots, tokens.lengths, ctx.child(2))
        targets = tokens.features.astype(jnp.float32)
        if self.options.normalize_patches:
            targets = model.encoder.normalize(targets)
        valid = jnp.arange(targets.shape[1]) < tokens.lengths[:, None]
        gone = valid & (kept.slots >= kept.keep.shape[1])
        total, count = squares(pixels, targets, gone)
        middle = jnp.where(gone[..., None], targets, 0).sum((0, 1)) / jnp.maximum(count, 1)
        sums = {
            "loss": (total, count),
            "mean_patch_loss": squares(middle, targets, gone),
            "mask_share": (count, valid.sum().astype(jnp.float32)),
        }
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns means, and the loss over what the mean patch's would be."""
        values = metrics.means(sums)
        if values.get("mean_patch_loss"):
            values["relative_loss"] = values["loss"] / values["mean_patch_loss"]
        return values

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss beside that of the mean patch."""
        if "loss" not in values:
            return ""
        return f"loss {values['loss']:.3f} (the mean patch: {values['mean_patch_loss']:.3f})"

    def health(self, values: dict[str, float]) -> str:
        """Returns that nothing is learned in a log line of training, or ''."""
        if values.get("relative_loss", 0.0) < FLAT:
            return ""
        return f"loss {values['loss']:.3f}, that of the mean patch: nothing is learned"

    def verdict(self, values: dict[str, float]) -> str:
        """Returns a warning where patches are told no better than by their mean."""
        return f"{self.health(values)}; {self.advice}" if self.health(values) else ""


def squares(predictions: Any, targets: Any, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (sum over the patches counted [B, N] of the mean square over pixels; how many)."""
    error = jnp.square(predictions - targets).mean(-1)
    return jnp.where(counted, error, 0).sum(), counted.sum().astype(jnp.float32)
