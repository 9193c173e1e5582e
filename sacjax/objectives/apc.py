"""Autoregressive predictive coding (Chung et al. 2019): predict the frame n ahead.

A causal encoder hears the frames of a spectrogram one after the other, and a linear map of each of
its states predicts the frame n later by the mean absolute error. With a codebook it is VQ-APC
(Chung et al. 2020): what is predicted from is one of few codes, so that the states below keep what
is worth a code.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.frontend import frame_lengths
from sacjax.layers.conv import valid
from sacjax.layers.quantizer import Quantizer, perplexity
from sacjax.models.frames import FrameEncoder
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
from sacjax.train import metrics

MOVES = ("shift", "speed", "time_warp", "resize_crop")
"""Augmentations after which a frame is no longer where it was in the clean clip."""


@dataclasses.dataclass(frozen=True)
class ApcOptions(Options):
    """`objective.options` of APC; the defaults are those published (s3prl)."""

    ahead: int = 5  # n: how many frames later the predicted frame is
    target: Literal["view", "clean"] = "view"  # clean: of the clip without augmentation
    codebook_entries: int = 0  # > 0: predict from one of so many codes (VQ-APC; s3prl: 512)
    codebook_temperature: float = 0.5  # of the Gumbel softmax
    collapse_patience: int = 20

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("ahead", "codebook_temperature")
        self.require_not_negative("codebook_entries")


class ApcModel(nnx.Module):
    """A causal encoder, perhaps a codebook, and a linear map to frames."""

    def __init__(self, encoder: FrameEncoder, options: ApcOptions, rngs: nnx.Rngs):
        """Takes an encoder of frames."""
        self.encoder, self.temperature = encoder, options.codebook_temperature
        width, entries = encoder.features, options.codebook_entries
        self.quantizer = (
            Quantizer(
                width,
                groups=1,
                entries=entries,
                dim=width,
                kernel_init=nnx.initializers.lecun_normal(),
                rngs=rngs,
            )
            if entries
            else None
        )
        self.head = nnx.Linear(width, encoder.token_features, rngs=rngs)

    def predict(
        self, states: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns (predictions [B, F, M] from the states; their codes [B, N], or None)."""
        states, codes = states.astype(jnp.float32), None
        if self.quantizer is not None:
            quantized = self.quantizer(states, self.temperature, key)
            states, codes = quantized.vectors, quantized.codes[..., 0]
        return self.encoder.frames(self.head(states)), codes


class Apc(Objective):
    """APC: predict the frame n ahead from the frames so far, by the mean absolute error."""

    hears_targets = True
    Options = ApcOptions
    options: ApcOptions
    advice = (
        "what usually helps: a lower optimizer.learning_rate with a longer warm-up, "
        "frontend.normalize=band, optimizer.clip_norm, a smaller objective.options.ahead"
    )

    @property
    def display(self) -> Display:  # type: ignore[override]
        """Its loss, and what it gains over predictions that need no learning."""
        panels = {
            "loss": LOSS,
            "loss saved by predicting, as a share": {
                "train/gain_over_copying": "train, over the last frame",
                "validation/gain_over_copying": "validation, over the last frame",
                "train/gain_over_mean": "train, over the mean frame",
            },
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        }
        if self.options.codebook_entries:
            panels["code perplexity"] = {"train/code_perplexity": "train"}
        return Display(
            bar={"loss": "train/loss", "gain over copying": "train/gain_over_copying"},
            panels=panels,
        )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for an encoder that hears the future, or nothing to predict."""
        o = cls.Options(**stage.objective.options)
        encoder: Any = nnx.eval_shape(lambda: build_encoder(stage, nnx.Rngs(0)))
        if not isinstance(encoder, FrameEncoder):
            raise UserError(
                f"objective.name={stage.objective.name} needs an encoder that hears no future, "
                f"model.name=gru or causal_transformer, not '{stage.model.name}'"
            )
        if not encoder.causal:
            raise UserError(
                "model.encoder.causal is False: the encoder would hear the frames that "
                f"objective.name={stage.objective.name} predicts; make it True"
            )
        if o.ahead < encoder.stack:
            raise UserError(
                f"objective.options.ahead is {o.ahead}: a token has model.encoder.stack="
                f"{encoder.stack} frames, so a frame less than {encoder.stack} ahead is heard"
            )
        check_frames(stage, o.ahead)
        if o.target == "clean":
            check_alignment(stage)

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        return ApcModel(build_encoder(self.stage, rngs), self.options, rngs)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over the valid frames that have one n ahead, and over bands."""
        view, ahead = batch["views"][0], self.options.ahead
        target = view if self.options.target == "view" else batch["clean"]
        output = model.encoder(view.inputs, view.lengths, ctx.child(0))
        predicted, codes = model.predict(output.frames, ctx.rng(1))
        future = target.inputs[:, ahead:]
        heard = target.inputs[:, : future.shape[1]]
        lengths = jnp.where(batch["mask"] > 0, target.lengths, 0)
        there = valid(future, lengths - ahead)
        count = there.sum().astype(jnp.float32)
        mean = jnp.where(there, future, 0).sum((0, 1)) / jnp.maximum(count, 1)
        total, copied, constant = (
            jnp.where(there, jnp.abs(guess - future), 0).mean(-1).sum()
            for guess in (predicted[:, : future.shape[1]], heard, mean)
        )
        sums: Sums = {
            "loss": (total, count),
            "gain_over_copying": (copied - total, copied),
            "gain_over_mean": (constant - total, constant),
        }
        if codes is not None:
            used = jnp.where(batch["mask"] > 0, output.lengths, 0)
            sums["codes"] = count_codes(codes, used, self.options.codebook_entries)
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns means, and of the code counts how many codes are in use."""
        host = dict(jax.device_get(sums))
        codes, count = host.pop("codes", (None, 0))
        values = metrics.means(host)
        if count > 0:
            values["code_perplexity"] = float(perplexity(jnp.asarray(codes / count)))
        return values

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and what it saves."""
        gain = 100 * values["gain_over_copying"]
        return f"loss {values['loss']:.4g}, {gain:.0f} % below copying the last frame"

    def health(self, values: dict[str, float]) -> str:
        """Returns what shows in a log line that nothing is learned, or ''."""
        if values.get("gain_over_mean", 1.0) < 0.01:
            return "the frame ahead is predicted no better than by the mean of all frames"
        if values.get("code_perplexity", np.inf) < 1.5 and self.options.codebook_entries > 1:
            entries = self.options.codebook_entries
            return f"code perplexity {values['code_perplexity']:.2f} of {entries}: one code for all"
        return ""


def check_frames(stage: ConfigDict, ahead: int) -> None:
    """Raises UserError where a crop is too short to have a frame so many ahead."""
    seconds = min(stage.data.seconds, stage.augment.crop_seconds or stage.data.seconds)
    f = stage.frontend
    hop = f.hop_length or (f.win_length or f.n_fft) // 4
    samples = round(seconds * stage.data.sample_rate)
    frames = int(frame_lengths(samples, n_fft=f.n_fft, hop_length=hop, center=f.center))
    if frames <= ahead:
        raise UserError(
            f"objective.options.ahead is {ahead}: data.seconds={seconds} gives {frames} frames, "
            "none of which has one so far ahead"
        )


def check_alignment(stage: ConfigDict) -> None:
    """Raises UserError for augmentation that moves frames away from where the clean clip's are."""
    listed = (*stage.augment.waveform, *stage.augment.spectrogram)
    moves = [spec["name"] for spec in listed if spec["name"] in MOVES]
    if 0 < stage.augment.crop_seconds < stage.data.seconds:
        moves.append("crop_seconds")
    if moves:
        raise UserError(
            f"objective.options.target is 'clean', but augment has {moves[0]}, which moves frames "
            "in time: leave it out, or set target='view'"
        )


def count_codes(codes: jax.Array, lengths: jax.Array, entries: int) -> tuple[jax.Array, jax.Array]:
    """Returns (how often each code is used in valid tokens, float32 [V]; their number)."""
    there = valid(codes, lengths).astype(jnp.float32)
    return jnp.zeros([entries]).at[codes].add(there), there.sum()
