"""EAT, the Efficient Audio Transformer (Chen et al. 2024): data2vec 2.0 on patches of a log-mel.

A teacher, which follows the encoder, hears the whole clip. The encoder sees a fifth of its patches,
in blocks, several times by other ones; a decoder of convolutions tells the teacher's average layer
at the patches that are left out, and the class token tells the mean of that over the clip.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from sacjax.augment.draws import fold_in
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.activation import gelu
from sacjax.layers.conv import convolution, valid, zero_padding
from sacjax.layers.masking import Kept, inverse_blocks, keep_best
from sacjax.layers.pooling import masked_mean
from sacjax.models.base import Tokens
from sacjax.models.spectrogram_transformer import SpectrogramTransformer, take
from sacjax.objectives.base import (
    LOSS,
    NEIGHBOURS,
    NORMS,
    Display,
    Loss,
    Objective,
    Options,
    build_encoder,
    ema_decay,
    follow,
    ramp_steps,
    teacher_of,
)
from sacjax.objectives.masked import example_keys_of, tokens_of
from sacjax.objectives.patches import check_patches
from sacjax.parts import part

EPSILON = 1e-5
KERNEL = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's convolutions


@dataclasses.dataclass(frozen=True)
class EatOptions(Options):
    """`objective.options` of EAT; the defaults are published, but for the weight."""

    clones: int = 16  # masked copies of a clip that share the teacher's pass
    mask_ratio: float = 0.8  # share of a clip's patches that is left out
    block: int = 5  # patches along each side of a block that is kept
    block_adjust: float = 0.07  # of the patches, that blocks cover beyond those kept
    mask_noise: float = 0.01  # deviation of what the decoder gets where a patch was left out
    average_layers: int | None = None  # top layers of the teacher in the target; None: all
    decoder_depth: int = 6  # convolutions
    decoder_width: int | None = None  # channels; None: as the encoder
    decoder_kernel: int = 3  # patches along each side
    decoder_groups: int = 16
    utterance_weight: float = 1.0  # of the class token's loss; both losses are means
    teacher_decay: float = 0.9998  # decay of the teacher's moving average at first
    teacher_decay_end: float = 0.99999  # and from the end of the ramp on
    teacher_ramp: float = 0.25  # steps, or up to 1 a share of the run

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        self.require(0 < self.mask_ratio < 1, "mask_ratio", "it must lie between 0 and 1")
        self.require_positive("clones", "block", "average_layers", "decoder_depth")
        self.require_positive("decoder_width", "decoder_kernel", "decoder_groups")
        self.require(self.decoder_kernel % 2 == 1, "decoder_kernel", "it must be odd")
        self.require_not_negative("mask_noise", "block_adjust", "utterance_weight")
        self.require_not_negative("teacher_ramp")
        self.require_shares("teacher_decay", "teacher_decay_end")


class Decoder(nnx.Module):
    """Convolutions in groups over the grid of patches, each with a norm, GELU and a residual."""

    def __init__(
        self,
        encoder: SpectrogramTransformer,
        options: EatOptions,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a decoder of an encoder's patches; over one band it goes through time alone."""
        o, inputs = options, encoder.features
        width = o.decoder_width or inputs
        size = (o.decoder_kernel, o.decoder_kernel if encoder.bands > 1 else 1)
        channels = [inputs] + [width] * o.decoder_depth
        pairs = zip(channels[:-1], channels[1:], strict=True)
        make = lambda i, c: nnx.Param(KERNEL(rngs.params(), (*size, i // o.decoder_groups, c)))
        self.kernels = nnx.List([make(i, c) for i, c in pairs])
        self.biases = nnx.List([nnx.Param(jnp.zeros([width])) for _ in channels[1:]])
        self.project = nnx.Linear(width, inputs, dtype=dtype, rngs=rngs)
        self.bands, self.groups, self.dtype = encoder.bands, o.decoder_groups, dtype

    @part("decoder")
    def __call__(
        self, x: Float[Array, "rows tokens features"], lengths: Int[Array, " rows"]
    ) -> Float[Array, "rows tokens features"]:
        """Returns what it tells of every patch of clips of `lengths` valid ones, float32."""
        columns = lengths // self.bands
        y = x.reshape(len(x), -1, self.bands, x.shape[-1]).astype(self.dtype)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            y = zero_padding(y, columns)
            padding = [(k // 2, k // 2) for k in kernel.shape[:2]]
            z = convolution(y, kernel[...].astype(self.dtype), (1, 1), padding, self.groups)
            z = (z + bias[...].astype(self.dtype)).astype(jnp.float32)
            z = jax.nn.standardize(z, epsilon=EPSILON).astype(self.dtype)
            z = gelu(z)
            y = z + y if z.shape == y.shape else z
        return self.project(y.reshape(*x.shape[:2], -1)).astype(jnp.float32)


class EatModel(nnx.Module):
    """An encoder, the teacher that follows it, and the decoder."""

    def __init__(
        self,
        encoder: SpectrogramTransformer,
        options: EatOptions,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Takes an encoder of patches with a class token."""
        self.encoder = encoder
        self.teacher = teacher_of(encoder)
        self.decoder = Decoder(encoder, options, dtype, rngs)


class Eat(Objective):
    """EAT: tell a moving-average teacher's patches, and its mean, from a fifth of the patches."""

    hears_targets = True
    Options = EatOptions
    options: EatOptions
    advice = (
        "what usually helps: a lower optimizer.learning_rate, objective.options.teacher_decay and "
        "teacher_decay_end nearer to 1, a lower mask_ratio"
    )
    display = Display(
        panels={
            "loss": LOSS | {"train/frame_loss": "patches", "train/utterance_loss": "class token"},
            "standard deviation over patches, or clips": {
                "train/target_std": "targets",
                "train/prediction_std": "predictions",
                "train/utterance_target_std": "clips' targets",
                "train/utterance_std": "class tokens",
            },
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        }
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for another encoder, or options that do not fit it."""
        check_patches(stage, class_token=True)
        self = cls(stage)
        o = self.options
        ramp_steps(stage, o.teacher_ramp)
        encoder: Any = nnx.eval_shape(lambda: build_encoder(stage, nnx.Rngs(0)))
        for width in (encoder.features, o.decoder_width or encoder.features):
            if width % o.decoder_groups:
                raise UserError(
                    f"objective.options.decoder_groups is {o.decoder_groups}: it must divide the "
                    f"encoder's width and decoder_width, and does not divide {width}"
                )
        if (o.average_layers or 1) > encoder.depth:
            raise UserError(
                f"objective.options.average_layers is {o.average_layers}: the encoder has "
                f"{encoder.depth}"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters, teacher and encoder alike."""
        dtype = jnp.dtype(self.stage.model.dtype)
        return EatModel(build_encoder(self.stage, rngs), self.options, dtype, rngs)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over the patches left out, with the weighted mean over masked copies.

        In training, patches are drawn by the example's row, else by its index in the data set.
        """
        tokens = tokens_of(model.encoder, batch["views"][0], batch["mask"])
        targets = self.targets(model.teacher, tokens)
        keys = example_keys_of(batch, ctx)
        keys = jax.vmap(lambda key: jax.random.split(key, self.options.clones))(keys).reshape(-1)
        lengths = jnp.repeat(tokens.lengths, self.options.clones)
        columns = tokens.features.shape[1] // model.encoder.bands
        kept = self.draw(fold_in(keys, 0), lengths, columns, model.encoder.bands)
        return self.loss_of(model, tokens, targets, kept, fold_in(keys, 1), ctx)

    def targets(self, teacher: Any, tokens: Tokens) -> jax.Array:
        """Returns what the teacher makes of whole clips: see `layer_targets`, [B, N, D]."""
        encoded = teacher.encode(tokens, hidden_states="mlp")
        states = encoded.patches.hidden_states[-(self.options.average_layers or 0) :]
        return jax.lax.stop_gradient(layer_targets(states, tokens.lengths))

    def draw(
        self, keys: Key[Array, " rows"], lengths: Int[Array, " rows"], columns: int, bands: int
    ) -> Kept:
        """Draws the patches that are kept: blocks first, then others, to the exact number."""
        o = self.options
        share = 1 - o.mask_ratio

        def scores(key: jax.Array, length: jax.Array) -> jax.Array:
            first, second = jax.random.split(key)
            blocks = inverse_blocks(
                first, length, columns, bands, share=share + o.block_adjust, block=o.block
            )
            return blocks + jax.random.uniform(second, blocks.shape)

        return keep_best(jax.vmap(scores)(keys, lengths), lengths, share)

    def loss_of(
        self, model: Any, tokens: Tokens, targets: Any, kept: Kept, keys: Any, ctx: Context
    ) -> Loss:
        """Returns the loss for given targets and kept patches; keys [rows] of the noise."""
        o, clones = self.options, self.options.clones
        lengths = jnp.repeat(tokens.lengths, clones)
        encoded = model.encoder.encode(tokens, ctx.child(1), keep=kept.keep)
        whole = fill(encoded.patches.frames, kept.slots, keys, o.mask_noise)
        predictions = model.decoder(whole, lengths)
        gone = valid(whole, lengths)[..., 0] & (kept.slots >= kept.keep.shape[1])
        frame = distance(predictions, jnp.repeat(targets, clones, 0), gone)
        means = masked_mean(targets, tokens.lengths)
        classes, rows = encoded.classes[:, 0].astype(jnp.float32), lengths > 0
        utterance = distance(classes, jnp.repeat(means, clones, 0), rows)
        mean = utterance[0] / jnp.maximum(utterance[1], 1)
        total = frame[0] + o.utterance_weight * mean * frame[1]
        sums = {
            "loss": (total, frame[1]),
            "frame_loss": frame,
            "utterance_loss": utterance,
            "target_std": deviation(targets, valid(targets, tokens.lengths)[..., 0]),
            "prediction_std": deviation(predictions, gone),
            "utterance_target_std": deviation(means, tokens.lengths > 0),
            "utterance_std": deviation(classes, rows),
            "mask_share": (frame[1], valid(whole, lengths).sum().astype(jnp.float32)),
            "teacher_decay": (self.decay(ctx), jnp.ones([])),
        }
        return Loss(total, frame[1], jax.lax.stop_gradient(sums))

    def decay(self, ctx: Context) -> jax.Array:
        """Returns the decay of the teacher's moving average at this point of the run."""
        o = self.options
        ramp = ramp_steps(self.stage, o.teacher_ramp)
        return ema_decay(ctx.progress, o.teacher_decay, o.teacher_decay_end, ramp)

    def after_update(self, model: Any, ctx: Context) -> None:
        """Moves the teacher towards the encoder."""
        follow(model.teacher, model.encoder, self.decay(ctx))

    def after_loading(self, model: Any) -> None:
        """Makes the teacher what the encoder is."""
        follow(model.teacher, model.encoder, 0.0)

    def describe(self, values: dict[str, float]) -> str:
        """Returns both losses, and how far targets differ from patch to patch."""
        if "loss" not in values:
            return ""
        return (
            f"loss {values['loss']:.3f} (class token {values['utterance_loss']:.3f}), deviation of "
            f"targets {values['target_std']:.2f}"
        )

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''.

        The bounds of the targets and predictions are those at which data2vec 2.0 stops.
        """
        for name, bound in (("target_std", 0.1), ("prediction_std", 0.01)):
            if values.get(name, 1.0) < bound:
                return f"{name} {values[name]:.2g}: nearly one vector for all patches"
        return ""


def layer_targets(
    states: Float[Array, "layers batch tokens features"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch tokens features"]:
    """Returns the mean of layers, normalized: float32, zero beyond the lengths.

    Each layer's channels are brought to zero mean and unit variance over a clip's valid patches,
    the layers averaged, and the average of each patch normalized over its channels.
    """
    inside = valid(states[0], lengths)
    count = jnp.maximum(lengths, 1)[:, None, None]

    def normalized(x: jax.Array) -> jax.Array:
        x = jnp.where(inside, x.astype(jnp.float32), 0)
        centred = jnp.where(inside, x - x.sum(1, keepdims=True) / count, 0)
        variance = jnp.square(centred).sum(1, keepdims=True) / count
        return centred * jax.lax.rsqrt(variance + EPSILON)

    mean = jax.vmap(normalized)(states).mean(0)
    return jnp.where(inside, jax.nn.standardize(mean, epsilon=EPSILON), 0)


def fill(
    frames: Float[Array, "rows kept features"],
    slots: Int[Array, "rows tokens"],
    keys: Key[Array, " rows"],
    deviation: float,
) -> Float[Array, "rows tokens features"]:
    """Returns all patches: those kept where they belong, and noise where one was left out."""
    shape = (slots.shape[1], frames.shape[-1])
    noise = deviation * jax.vmap(partial(jax.random.normal, shape=shape))(keys)
    x = take(frames, jnp.minimum(slots, frames.shape[1] - 1))
    return jnp.where((slots < frames.shape[1])[..., None], x, noise.astype(x.dtype))


def distance(
    predictions: Float[Array, "*rows features"],
    targets: Float[Array, "*rows features"],
    counted: Bool[Array, "*rows"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (sum of the squared distances over the root of the width; how many are counted)."""
    squares = jnp.square(predictions - targets).sum(-1) / targets.shape[-1] ** 0.5
    return jnp.where(counted, squares, 0).sum(), counted.sum().astype(jnp.float32)


def deviation(
    x: Float[Array, "*rows features"], counted: Bool[Array, "*rows"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (mean over the channels of the standard deviation over what is counted; 1)."""
    axes = tuple(range(x.ndim - 1))
    number, inside = jnp.maximum(counted.sum(), 1), counted[..., None]
    mean = jnp.where(inside, x, 0).sum(axes) / number
    variance = jnp.where(inside, jnp.square(x - mean), 0).sum(axes) / number
    return jnp.sqrt(variance + 1e-6).mean(), (counted.sum() > 1).astype(jnp.float32)
