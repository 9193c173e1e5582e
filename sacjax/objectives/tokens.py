"""The sound behind each token of an encoder: log-mels or MFCC at the rate of the tokens.

Objectives that predict tokens of fixed targets (BEST-RQ, HuBERT) make these of it, in the jitted
step, of the same crop that the encoder hears.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax import models
from sacjax.errors import UserError
from sacjax.frontend import cepstrum, make_frontend
from sacjax.frontend.deltas import deltas
from sacjax.objectives.base import num_features
from sacjax.views import View

Kind = Literal["log_mel", "mfcc"]
KINDS: tuple[Kind, ...] = ("log_mel", "mfcc")
COEFFICIENTS = 13  # MFCC, where the front end does not say how many
FARTHEST = 1 << 20  # inputs between two tokens, at most


class Grid(NamedTuple):
    """How an encoder's tokens lie over its input."""

    number: int
    """Tokens of a training crop."""

    hop: int
    """Samples or frames from a token to the next in time."""

    bands: int
    """Tokens side by side in frequency, which follow each other: 1, or more of patches."""


def is_token_encoder(model: ConfigDict) -> bool:
    """Returns whether a stage's encoder is one of tokens."""
    return issubclass(models.ENCODERS[model.name], models.TokenEncoder)


def input_size(stage: ConfigDict) -> int:
    """Returns the samples or frames of a training crop."""
    seconds = min(stage.data.seconds, stage.augment.crop_seconds or stage.data.seconds)
    size = round(seconds * stage.data.sample_rate)
    if models.input_kind(stage.model) == "waveform":
        return size
    frontend = make_frontend(stage.frontend, stage.data.sample_rate)
    shapes = (jax.ShapeDtypeStruct([1, size], jnp.float32), jax.ShapeDtypeStruct([1], jnp.int32))
    return jax.eval_shape(frontend, *shapes)[0].shape[1]


def token_grid(stage: ConfigDict) -> Grid:
    """Returns how the tokens of a stage's encoder lie over a training crop; nothing is computed."""
    return _grid(_counter_of(stage), input_size(stage))


def token_number(stage: ConfigDict) -> int:
    """Returns `token_grid(stage).number`, in less time."""
    return _counter_of(stage)(input_size(stage))


def _counter_of(stage: ConfigDict) -> Callable[[int], int]:
    model = {key: stage.model[key] for key in ("name", "encoder", "dtype")}
    told = json.dumps({k: getattr(v, "to_dict", lambda v=v: v)() for k, v in model.items()})
    return _counter(told, num_features(stage))


@functools.cache
def _grid(tokens: Callable[[int], int], size: int) -> Grid:
    first = _next(tokens, size)
    hop = _next(tokens, first) - first
    return Grid(tokens(size), hop, tokens(first) - tokens(size))


@functools.cache
def _counter(model: str, features: int) -> Callable[[int], int]:
    """Returns what tells the tokens of so many inputs; each number of inputs is traced once."""
    config = ConfigDict(json.loads(model))
    encoder: Any = nnx.eval_shape(
        lambda: models.build_encoder(config, num_features=features, rngs=nnx.Rngs(0))
    )
    graphdef, variables = nnx.split(encoder)
    rest = () if encoder.input_kind == "waveform" else (features,)

    @functools.cache
    def tokens(inputs: int) -> int:
        shape = jax.ShapeDtypeStruct([1, inputs, *rest], jnp.float32)
        length = jax.ShapeDtypeStruct([1], jnp.int32)
        run: Any = lambda variables, x, n: nnx.merge(graphdef, variables).tokens(x, n).features
        return jax.eval_shape(run, variables, shape, length).shape[1]

    return tokens


def _next(count: Callable[[int], int], size: int) -> int:
    """Returns the least input above `size` that has more tokens."""
    now, step = count(size), 1
    while count(size + step) == now:
        step *= 2
        if step > FARTHEST:
            raise UserError("model.encoder gives no more tokens for longer clips")
    low, high = size + step // 2, size + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) > now else (middle, high)
    return high


class TokenFeatures:
    """What each token hears: the log-mels of its frames side by side, or its first frame's MFCC.

    Of an encoder of spectrograms it is that spectrogram, as the front end normalizes it; of an
    encoder of waveforms, what the stage's `frontend` makes of the wave, with frames that begin
    where the tokens do: its `hop_length` and `center` have no say.
    """

    def __init__(self, stage: ConfigDict, kind: Kind, stack: int = 1):
        """Takes a stage.

        Args:
          stage: its config.
          kind: log_mel, or mfcc: with their first and second differences over time.
          stack: frames a token of an encoder of waveforms.

        Raises:
          UserError: a hop that `stack` does not divide, or bands that do not divide over patches.
        """
        self.kind, self.grid = kind, token_grid(stage)
        self.waveform = models.input_kind(stage.model) == "waveform"
        config = stage.frontend.copy_and_resolve_references()
        self.coefficients = config.n_mfcc or COEFFICIENTS
        self.has_cepstrum = self.waveform or bool(config.n_mfcc)
        self.frames = stack if self.waveform else self.grid.hop
        bands = config.n_mels if self.waveform or not config.n_mfcc else config.n_mfcc
        if self.waveform:
            if self.grid.hop % stack:
                raise UserError(
                    f"objective.options.stack is {stack}: it must divide the "
                    f"{self.grid.hop} samples from a token to the next"
                )
            config.hop_length, config.center = self.grid.hop // stack, False
            config.n_mfcc = self.coefficients if kind == "mfcc" else 0
            self.frontend = make_frontend(config, stage.data.sample_rate)
        if kind == "mfcc" and self.grid.bands > 1:
            raise UserError("MFCC are of whole frames, not of patches: choose log_mel")
        if kind == "mfcc" and self.coefficients > config.n_mels:
            raise UserError(
                f"frontend.n_mels is {config.n_mels}: {self.coefficients} MFCC need as many; raise "
                "it, or lower frontend.n_mfcc"
            )
        if bands % self.grid.bands:
            raise UserError(
                f"frontend.n_mels is {bands}: it does not divide over {self.grid.bands} patches"
            )
        self.size = 3 * self.coefficients if kind == "mfcc" else self.frames * bands
        self.size //= self.grid.bands

    def __call__(self, view: View, number: int) -> Float[Array, "batch {number} {self.size}"]:
        """Returns the features of so many tokens of each clip, float32.

        Tokens that reach beyond a clip's end have its last frame again.
        """
        x, lengths = self.frontend(*view) if self.waveform else view
        steps = -(-number // self.grid.bands)
        if self.kind == "mfcc":
            x = x if self.has_cepstrum else cepstrum(x, n_mfcc=self.coefficients)
            first = deltas(x, lengths)
            x = jnp.concatenate([x, first, deltas(first, lengths)], -1)
            return _frames_at(x, lengths, self.frames * jnp.arange(steps))[:, :number]
        places = jnp.arange(steps * self.frames)
        x = _frames_at(x, lengths, places).reshape(len(x), steps, self.frames, self.grid.bands, -1)
        return x.swapaxes(2, 3).reshape(len(x), steps * self.grid.bands, -1)[:, :number]


def _frames_at(
    x: Float[Array, "batch frames features"],
    lengths: Int[Array, " batch"],
    places: Int[Array, " places"],
) -> Float[Array, "batch places features"]:
    """Returns the frames at these places, the last valid one for those beyond it."""
    places = jnp.minimum(places, jnp.maximum(lengths - 1, 0)[:, None])
    return jnp.take_along_axis(x, places[..., None], 1)


def check_aligned(stage: ConfigDict) -> None:
    """Raises UserError where augmentation moves sound in time, away from targets of the source."""
    moving = {"waveform": ("shift", "speed"), "spectrogram": ("time_warp", "resize_crop")}
    for kind, names in moving.items():
        for entry in stage.augment[kind]:
            if entry["name"] in names:
                raise UserError(
                    f"augment.{kind} has {entry['name']}, which moves sound in time, away from its "
                    "targets: leave it out, or set objective.options.targets_from=view"
                )
