"""Inversion: give back the waveform of a spectrogram, or of an encoder's frames.

A stack of ConvNeXt blocks at the frame rate and an inverse STFT (Vocos, Siuzdak 2023), taught by
the multi-resolution STFT loss (Yamamoto et al. 2020) and the L1 distance of log-mel spectrograms,
with no adversary. In evaluation Griffin-Lim stands beside it, on what the mel spectrogram tells.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Int
from ml_collections import ConfigDict

from sacjax import augment, frontend, models
from sacjax.augment.draws import example_keys
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import valid, zero_padding
from sacjax.layers.convnext import ConvNeXt
from sacjax.layers.pooling import masked_mean
from sacjax.objectives.autoencoder import fit_frames, stride_of
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

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""(n_fft, hop, window) of Parallel WaveGAN and auraloss."""

LOUDEST = 100.0  # magnitude of a cell at the most
POWER_FLOOR, MEL_FLOOR = 1e-7, 1e-7


@dataclasses.dataclass(frozen=True)
class InversionOptions(Options):
    """`objective.options` of inversion; the sizes are Vocos's."""

    source: Literal["spectrogram", "encoder"] = "encoder"  # what the waveform is made from
    width: int = 512  # of the ConvNeXt stack
    hidden: int = 1536  # inside its blocks
    depth: int = 8  # blocks
    padding: Literal["center", "same"] = "center"  # of the inverse STFT; same: Vocos's
    stft_weight: float = 1.0  # of the multi-resolution STFT loss
    mel_weight: float = 1.0  # of the log-mel distance; Vocos, with an adversary: 45
    griffin_lim: int = 32  # rounds of Griffin-Lim beside it in evaluation; 0 = none

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("width", "hidden", "depth")
        self.require_not_negative("stft_weight", "mel_weight", "griffin_lim")
        self.require(self.stft_weight + self.mel_weight > 0, "stft_weight", "one must be above 0")


class Head(nnx.Module):
    """A linear layer to the magnitude, by exp, and the phase of each cell of a spectrum."""

    def __init__(self, width: int, n_fft: int, rngs: nnx.Rngs):
        """Makes the layer."""
        self.linear = nnx.Linear(width, n_fft + 2, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch frames width"]
    ) -> Complex[Array, "batch frames bins"]:
        """Returns the spectrum."""
        log_magnitude, phase = jnp.split(self.linear(x.astype(jnp.float32)), 2, -1)
        magnitude = jnp.minimum(jnp.exp(log_magnitude), LOUDEST)
        return jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))


class Vocoder(nnx.Module):
    """From frames to a waveform; each may first become several, at the spectrogram's rate."""

    def __init__(
        self, inputs: int, stride: int, n_fft: int, o: InversionOptions, dtype: DTypeLike, rngs: Any
    ):
        """Takes frames of so many features, each of `stride` frames of the spectrogram."""
        self.stride = stride
        self.expand = None if stride == 1 else nnx.Linear(inputs, stride * o.width, rngs=rngs)
        inputs = inputs if stride == 1 else o.width
        self.stack = ConvNeXt(inputs, o.width, o.hidden, o.depth, dtype=dtype, rngs=rngs)
        self.head = Head(o.width, n_fft, rngs)

    def frames(
        self, x: Float[Array, "batch frames features"], lengths: Int[Array, " batch"], size: int
    ) -> Float[Array, "batch size width"]:
        """Returns the last frames, `size` of them, before the head.

        Args:
          x: what the waveform is made from.
          lengths: valid frames of the spectrogram.
          size: frames of the spectrogram.
        """
        if self.expand is not None:
            x = self.expand(x.astype(jnp.float32)).reshape(len(x), x.shape[1] * self.stride, -1)
        return self.stack(fit_frames(x, size), lengths)


class InversionModel(nnx.Module):
    """The vocoder, and the encoder whose frames it hears; without one it hears the spectrogram."""

    def __init__(self, encoder: Any, vocoder: Vocoder):
        """Takes both."""
        if encoder is not None:
            self.encoder = encoder
        self.vocoder = vocoder

    def frames(self, view: View, ctx: Context) -> jax.Array:
        """Returns the vocoder's last frames [B, F, width]."""
        x = view.inputs
        if hasattr(self, "encoder"):
            x = self.encoder(x, view.lengths, ctx).frames
        return self.vocoder.frames(x, view.lengths, view.inputs.shape[1])


class Inversion(Objective):
    """Inversion: the waveform from a spectrogram or an encoder's frames, by an inverse STFT."""

    Options = InversionOptions
    options: InversionOptions
    advice = "what usually helps: a lower optimizer.learning_rate, louder clips, augment gain"
    display = Display(
        bar={"loss": "train/loss", "SNR": "train/snr_db"},
        panels={
            "loss": LOSS,
            "spectral convergence, 0 = the same magnitudes": {
                "train/convergence": "train",
                "validation/convergence": "validation",
                "validation/griffin_lim_convergence": "Griffin-Lim, validation",
            },
            "signal to noise, dB": {"train/snr_db": "train", "validation/snr_db": "validation"},
            "parts of the loss": {"train/stft": "STFT", "train/mel": "log mel"},
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    @property
    def features(self) -> int:
        """D of the embeddings: the encoder's, or the stack's."""
        made = self.options.source == "encoder"
        return models.width(self.stage.model) if made else self.options.width

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for waveforms, and for sound that is moved or framed otherwise."""
        if models.input_kind(stage.model) != "spectrogram":
            raise UserError(
                f"objective.name is inversion, which starts from a spectrogram, but model.name "
                f"{stage.model.name} hears waveforms: choose an encoder of spectrograms"
            )
        if moved := augment.moves_in_time(stage.augment, stage.data.seconds):
            raise UserError(
                f"objective.name is inversion, but {moved} moves the sound in time, away from "
                "the waveform that is wanted: leave it out; data.seconds sets shorter crops"
            )
        if not stage.frontend.center or stage.frontend.n_fft % 2:
            raise UserError(
                "objective.name is inversion, which needs frontend.center and an even n_fft"
            )
        if stage.objective.options.get("source", "encoder") == "encoder":
            stride_of(stage)

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        o, n_fft = self.options, self.stage.frontend.n_fft
        dtype, inputs, stride, encoder = jnp.dtype(self.stage.model.dtype), 0, 1, None
        if o.source == "encoder":
            encoder = build_encoder(self.stage, rngs)
            inputs, stride = encoder.features, stride_of(self.stage)
        inputs = inputs or num_features(self.stage)
        return InversionModel(encoder, Vocoder(inputs, stride, n_fft, o, dtype, rngs))

    def waveform(self, model: Any, batch: dict[str, Any], ctx: Context) -> jax.Array:
        """Returns the reconstruction, float32 [B, T], zero beyond each clip's length."""
        view, (sound, lengths) = batch["views"][0], batch["waveform"]
        spectrum = model.vocoder.head(model.frames(view, ctx))
        x = frontend.istft(
            spectrum,
            hop_length=self.shape()["hop_length"],
            length=sound.shape[1],
            padding=self.options.padding,
            frames=view.lengths,
        )
        return zero_padding(x, lengths)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over clips of STFT loss and log-mel distance, as they are weighted."""
        lengths, mask = batch["waveform"].lengths, batch["mask"]
        target = zero_padding(batch["waveform"].inputs, lengths)
        made = self.waveform(model, batch, ctx)
        stft = stft_loss(made, target, lengths)
        mel = jnp.abs(self.log_mel(made, lengths) - self.log_mel(target, lengths))
        mel = masked_mean(mel, batch["views"][0].lengths).mean(-1)
        each = self.options.stft_weight * stft + self.options.mel_weight * mel
        # A clip whose sound is digital silence is no reference.
        heard = mask * (jnp.abs(target).max(1) > 0)
        values = {"loss": (each, mask), "stft": (stft, mask), "mel": (mel, mask)}
        values["snr_db"] = snr_db(made, target), heard
        values["level"] = jnp.sqrt(power(made) / jnp.maximum(power(target), 1e-12)), heard
        values["convergence"] = self.convergence(made, target, lengths), heard
        if not ctx.train and self.options.griffin_lim:
            rebuilt = self.griffin_lim(target, lengths)
            values["griffin_lim_convergence"] = self.convergence(rebuilt, target, lengths), heard
        sums = {name: ((x * weight).sum(), weight.sum()) for name, (x, weight) in values.items()}
        return Loss(*sums["loss"], jax.lax.stop_gradient(sums))

    def shape(self) -> dict[str, Any]:
        """Returns the options of the front end's STFT."""
        f = self.stage.frontend
        window, hop = f.win_length or f.n_fft, f.hop_length
        return dict(
            n_fft=f.n_fft, win_length=window, hop_length=hop or window // 4, window=f.window
        )

    def mel(self) -> dict[str, Any]:
        """Returns the options of the front end's mel filters."""
        f = self.stage.frontend
        norm = None if f.mel_norm == "none" else f.mel_norm
        return dict(n_mels=f.n_mels, fmin=f.fmin, fmax=f.fmax, htk=f.htk, norm=norm)

    def log_mel(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns natural logarithms of the mel spectrogram of magnitudes, [B, F, M]."""
        rate, floor = self.stage.data.sample_rate, MEL_FLOOR
        options = dict(power=1.0, lengths=lengths, floor=floor, **self.shape(), **self.mel())
        return frontend.log_mel_spectrogram(x, sample_rate=rate, **options)

    def convergence(self, x: jax.Array, target: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns the spectral convergence [B] by the front end's STFT."""
        f = self.shape()
        sizes = f["n_fft"], f["hop_length"], f["win_length"]
        return convergence(*(magnitudes(y, lengths, *sizes) for y in (x, target)))

    def griffin_lim(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns what Griffin-Lim makes of the clips' mel spectrograms, [B, T]."""
        rate, shape = self.stage.data.sample_rate, self.shape()
        n_fft = shape.pop("n_fft")
        mel = frontend.mel_spectrogram(
            x, sample_rate=rate, lengths=lengths, n_fft=n_fft, **shape, **self.mel()
        )
        filters = frontend.mel_filterbank(rate, n_fft=n_fft, **self.mel())
        magnitude = jnp.sqrt(frontend.linear_of_mel(mel, filters))
        keys = example_keys(jax.random.key(0), jnp.arange(len(x)))
        draw = lambda key: jax.random.uniform(key, magnitude.shape[1:], maxval=2 * jnp.pi)
        options: dict[str, Any] = dict(
            rounds=self.options.griffin_lim, length=x.shape[1], lengths=lengths
        )
        return frontend.griffin_lim(magnitude, phase=jax.vmap(draw)(keys), **shape, **options)

    def embed(self, model: Any, batch: dict[str, Any], ctx: Context) -> jax.Array:
        """Returns the mean over the encoder's frames, or over the stack's, float32 [B, D]."""
        if self.options.source == "encoder":
            return super().embed(model, batch, ctx)
        view = batch["views"][0]
        return masked_mean(model.frames(view, ctx).astype(jnp.float32), view.lengths)

    def samples(self, model: Any, batch: dict[str, Any], ctx: Context) -> dict[str, jax.Array]:
        """Returns the clips as they are and as they are reconstructed, [B, T] each."""
        sound, lengths = batch["waveform"]
        found = {"original": sound, "reconstruction": self.waveform(model, batch, ctx)}
        if self.options.griffin_lim:
            found["Griffin-Lim"] = self.griffin_lim(zero_padding(sound, lengths), lengths)
        return found

    def describe(self, values: dict[str, float]) -> str:
        """Returns the spectral convergence, beside Griffin-Lim's, and the SNR."""
        beside = ""
        if "griffin_lim_convergence" in values:
            beside = f" (Griffin-Lim {values['griffin_lim_convergence']:.3f})"
        told = f"loss {values['loss']:.4g}"
        if "convergence" not in values:
            return told
        convergence = f"spectral convergence {values['convergence']:.3f}{beside}"
        return f"{told}, {convergence}, SNR {values['snr_db']:.1f} dB"

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        level = values.get("level", 1.0)
        return "" if level >= 0.01 else f"level is {level:.2g} of the clips': it gives silence"

    def verdict(self, values: dict[str, float]) -> str:
        """Returns a warning where Griffin-Lim is nearer to the clips' spectrograms."""
        beside = values.get("griffin_lim_convergence", float("inf"))
        if values.get("convergence", 0.0) <= beside:
            return ""
        return "is further from the clips' spectrograms than Griffin-Lim: take more steps"


def magnitudes(
    x: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    n_fft: int,
    hop_length: int,
    win_length: int,
) -> Float[Array, "batch frames bins"]:
    """Returns the magnitudes of the STFT, floored, zero beyond each clip's frames."""
    sizes: dict[str, Any] = dict(n_fft=n_fft, hop_length=hop_length)
    spectrum = frontend.stft(x, win_length=win_length, lengths=lengths, **sizes)
    # Floored inside the root, whose gradient at 0 is infinite.
    found = jnp.sqrt(jnp.maximum(spectrum.real**2 + spectrum.imag**2, POWER_FLOOR))
    return zero_padding(found, jnp.asarray(frontend.frame_lengths(lengths, **sizes)))


def convergence(
    x: Float[Array, "batch frames bins"], target: Float[Array, "batch frames bins"]
) -> Float[Array, " batch"]:
    """Returns the Frobenius norm of the difference over that of the target, of each clip."""
    norm = lambda y: jnp.sqrt(jnp.maximum(jnp.square(y).sum((1, 2)), 1e-12))
    return norm(x - target) / norm(target)


def stft_loss(
    x: Float[Array, "batch samples"],
    target: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS,
) -> Float[Array, " batch"]:
    """Returns the multi-resolution STFT loss of each clip.

    The mean over resolutions of spectral convergence and L1 distance of log magnitudes. The first
    is of each clip, not of the batch, or loud clips would outweigh all others; it is 0 for a target
    of digital silence, which is no reference.

    Args:
      x: zero beyond the lengths.
      target: likewise.
      lengths: valid samples.
      resolutions: (n_fft, hop, window) of each.
    """
    heard, total = jnp.abs(target).max(1) > 0, jnp.zeros(len(x))
    for sizes in resolutions:
        made, wanted = (magnitudes(y, lengths, *sizes) for y in (x, target))
        frames = jnp.asarray(frontend.frame_lengths(lengths, n_fft=sizes[0], hop_length=sizes[1]))
        inside = valid(made, frames)
        logs = (jnp.log(jnp.where(inside, y, 1)) for y in (made, wanted))
        distance = masked_mean(jnp.abs(next(logs) - next(logs)), frames).mean(-1)
        total += distance + jnp.where(heard, convergence(made, wanted), 0)
    return total / len(resolutions)


def power(x: Float[Array, "batch samples"]) -> Float[Array, " batch"]:
    """Returns the sum of squares."""
    return jnp.square(x).sum(-1)


def snr_db(
    x: Float[Array, "batch samples"], target: Float[Array, "batch samples"]
) -> Float[Array, " batch"]:
    """Returns the signal-to-noise ratio, in dB."""
    ratio = jnp.maximum(power(target), 1e-12) / jnp.maximum(power(x - target), 1e-12)
    return 10 * jnp.log10(ratio)
