"""A causal encoder that hears a stream: state in, state out, its front end before it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.frontend import make_frontend
from sacjax.inference.model import Model
from sacjax.models import front_end
from sacjax.models.classifier import Classifier
from sacjax.models.frames import FrameEncoder


def why_not_carried(model: Model) -> str | None:
    """Returns why a model's encoder cannot carry its state through a stream; None if it can."""
    module, c = model.module, model.stage_config.frontend
    encoder = getattr(module, "encoder", None)
    if not isinstance(module, Classifier) or not isinstance(encoder, FrameEncoder):
        return f"model.name={model.stage_config.model.name} keeps no state"
    if not encoder.causal:
        return "model.encoder.causal=False hears the future"
    if module.layer_weights is not None:
        return "model.layers=weighted needs the states of all layers"
    if front_end.learns(model.stage_config.model):
        return f"model.frontend={model.stage_config.model.frontend} hears a whole clip"
    for key, whole in (
        ("normalize", c.normalize in ("clip", "band")),
        ("ref", isinstance(c.ref, str)),
        ("top_db", c.top_db is not None),
        ("trim_db", c.trim_db > 0),
        ("repeat_seconds", c.repeat_seconds > 0),
        ("preemphasis", c.preemphasis > 0),
    ):
        if whole:
            return f"frontend.{key}={c[key]} hears a whole clip"
    return None


class CausalFrames:
    """A causal encoder behind its front end: from samples that come in chunks to its frames.

    Attributes:
      interval: samples from a frame to the next.
      window: frames of what the model heard at a time in training.
      step: frames that are made at a time.
      first: seconds to the middle of the first window.
    """

    def __init__(self, model: Model, hop: float):
        """Takes a model of which `why_not_carried` says None, and the seconds of a step."""
        stage = model.stage_config
        c = self.config = stage.frontend
        encoder, rate = model.module.encoder, model.sample_rate
        self.stack = encoder.stack
        self.interval = c.hop_length * self.stack
        self.window = -(-self._count(round(stage.data.seconds * rate)) // self.stack)
        self.step = min(max(round(hop * rate / self.interval), 1), self.window)
        self.first = (
            (self.window * self.stack - 1) * c.hop_length / 2 + (c.n_fft / 2 - self._margin)
        ) / rate
        self.size = (self.step * self.stack - 1) * c.hop_length + c.n_fft  # samples of a step
        self.advance = _advance(encoder, c, rate, self.step * self.stack)
        self.silence = jax.jit(lambda: encoder.start(1))()  # the state before any sound
        self.features = int(encoder.features)
        self.start()

    def start(self) -> None:
        """Forgets what was heard."""
        self.state = self.silence
        self.rest = self.end = np.zeros(0, np.int16)  # not yet framed; the last heard
        self.heard = self.done = 0  # samples, frames of the front end
        self.begun = False

    @property
    def _margin(self) -> int:
        return self.config.n_fft // 2 if self.config.center else 0

    def _count(self, samples: int) -> int:
        """Returns the front end's frames of so many samples, as `frontend.frame_lengths`."""
        c = self.config
        return max(1 + (samples + 2 * self._margin - c.n_fft) // c.hop_length, 1)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Returns the frames [n, D] that samples make whole."""
        self.heard += len(samples)
        self.end = np.concatenate([self.end, samples])[-(self._margin + 1) :]
        self.rest = np.concatenate([self.rest, samples])
        if not self.begun and self.heard > self._margin:
            self._begin()
        return self._advance_while(lambda: self.begun and len(self.rest) >= self.size)

    def finish(self) -> np.ndarray:
        """Returns the last frames, which hear the reflection of the end."""
        if not self.heard:
            return np.zeros([0, self.features], np.float32)
        if not self.begun:
            self._begin()
        ending = np.pad(self.end, (0, self._margin), mode=self.config.pad_mode)[len(self.end) :]
        self.rest = np.concatenate([self.rest, ending])
        return self._advance_while(lambda: self.done < self._count(self.heard))

    def warm_up(self) -> None:
        """Compiles a step."""
        self.advance(np.zeros([1, self.size], np.int16), np.int32(0), self.state)

    def _begin(self) -> None:
        """Puts before the first sample what the front end pads it with."""
        self.begun, margin = True, self._margin
        self.rest = np.pad(self.rest, (margin, 0), mode=self.config.pad_mode)

    def _advance_while(self, more: Callable[[], bool]) -> np.ndarray:
        made, taken = [np.zeros([0, self.features], np.float32)], self.step * self.stack
        while more():
            part = self.rest[: self.size]
            samples = np.zeros([1, self.size], np.int16)
            samples[0, : len(part)] = part
            left = self._count(self.heard) - self.done
            frames, self.state = self.advance(samples, np.int32(left), self.state)
            made.append(np.asarray(frames)[: -(-left // self.stack)])
            self.rest = self.rest[taken * self.config.hop_length :]
            self.done += taken
        return np.concatenate(made)


def _advance(encoder: Any, config: ConfigDict, rate: int, count: int) -> Callable[..., Any]:
    """Returns the jitted (samples int16 [1, T], valid frames, state) → (frames [N, D], state)."""
    config = config.copy_and_resolve_references()
    config.center = False  # the ends are padded by the caller
    frontend = make_frontend(config, rate)
    graphdef, variables = nnx.split(encoder)

    @jax.jit
    def advance(variables: Any, samples: jax.Array, valid: jax.Array, state: Any) -> Any:
        audio = samples.astype(jnp.float32) / 32768
        x, _ = frontend(audio, jnp.full([1], samples.shape[1], jnp.int32))
        x = jnp.where(jnp.arange(count)[:, None] < valid, x[:, :count], 0)
        frames, state = nnx.merge(graphdef, variables).stream(x, state)
        return frames[0].astype(jnp.float32), state

    return lambda *args: advance(variables, *args)
