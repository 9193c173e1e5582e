"""A classifier as functions of one window: logits, gradients, feature maps, attention."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sacjax import models, objectives
from sacjax.context import Context
from sacjax.frontend import trim
from sacjax.inference import Model
from sacjax.inference.embedder import Embedder, unlabelled
from sacjax.layers.conv import valid
from sacjax.layers.tap import tapped
from sacjax.models.base import TokenEncoder
from sacjax.models.spectrogram_transformer import SpectrogramTransformer
from sacjax.views import View, make_views

ROWS = 9
"""Inputs that go through the network at once."""


class Network:
    """A classifier in float32, without augmentation; every function is of one window.

    Attributes:
      stage: its config; clips are trimmed by `trimmed`, and not again.
      encoder: of `sacjax.models`.
      hears_waves: whether the inputs are samples [T], and not a spectrogram [F, M].
    """

    def __init__(self, model: Model):
        """Takes a trained classifier."""
        self.stage = model.stage_config.copy_and_resolve_references()
        self.frontend = model.stage_config.frontend
        # A clip is drawn once; HTS-AT repeats its frames itself.
        self.stage.frontend.update(trim_db=0.0, repeat_seconds=0.0)
        self.objective, module = model.objective, model.module
        if self.stage.model.dtype != "float32":
            self.stage.model.dtype = "float32"
            classes = np.ones(len(model.labels))
            self.objective = objectives.build(self.stage, model.labels, classes)
            bare = nnx.eval_shape(lambda: self.objective.build(nnx.Rngs(0)))
            module = nnx.merge(nnx.split(bare)[0], nnx.split(module)[1])
        self.graphdef, self.variables = nnx.split(module)
        self.encoder: Any = module.encoder
        self.sample_rate = model.sample_rate
        self.hears_waves = models.input_kind(self.stage.model) == "waveform"
        self._views = jax.jit(make_views(self.stage, len(model.labels)))
        self._logits = jax.jit(self._logit)
        self._gradients = jax.jit(jax.value_and_grad(self._total, 1, has_aux=True))
        self._maps = jax.jit(self._maps_and_gradients)
        self._attention = jax.jit(self._weights)

    def trimmed(self, audio: np.ndarray) -> np.ndarray:
        """Returns samples float32 [n] as the network hears them: trimmed, if its config trims."""
        f = self.frontend
        if not f.trim_db:
            return audio
        sizes: Any = dict(top_db=f.trim_db, frame_length=f.n_fft, hop_length=f.hop_length)
        sound, lengths = trim(jnp.asarray(audio)[None], jnp.asarray([len(audio)]), **sizes)
        return np.asarray(sound)[0, : int(lengths[0])]

    def view(self, audio: np.ndarray, length: int) -> tuple[np.ndarray, int]:
        """Returns (what the encoder takes of samples [T], its valid frames or samples)."""
        batch = unlabelled(jnp.asarray(audio)[None], jnp.asarray([length], jnp.int32))
        view = self._views(batch)["clean"]
        return np.asarray(view.inputs[0]), int(view.lengths[0])

    def logits(self, inputs: np.ndarray, length: int, label: int) -> np.ndarray:
        """Returns the label's logit of each of some inputs [K, …] of one length, float64 [K]."""
        rows = self._in_rows(inputs, lambda x: self._logits(self.variables, x, length, label))
        return np.concatenate(rows).astype(np.float64)[: len(inputs)]

    def gradients(
        self, inputs: np.ndarray, length: int, label: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (the label's logits [K], their gradients [K, …]) of inputs [K, …]."""
        call = lambda x: self._gradients(self.variables, x, length, label)
        rows = self._in_rows(inputs, call)
        values = np.concatenate([np.asarray(row[0][1], np.float64) for row in rows])
        slopes = np.concatenate([np.asarray(row[1]) for row in rows])
        return values[: len(inputs)], slopes[: len(inputs)]

    def maps(self, inputs: np.ndarray, length: int, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (the feature maps of the last convolutions [N, …, C], the logit's gradients).

        Only of an encoder for which `has_maps` holds.
        """
        maps, slopes = self._maps(self.variables, jnp.asarray(inputs)[None], length, label)
        return np.asarray(maps)[0], np.asarray(slopes)[0]

    def attention(self, inputs: np.ndarray, length: int) -> np.ndarray:
        """Returns every layer's attention weights of an input [layers, heads, tokens, tokens].

        Class tokens come first. Only of an encoder for which `has_attention` holds.
        """
        found = self._attention(self.variables, jnp.asarray(inputs)[None], length)
        return np.asarray(found)[:, 0]

    @functools.cached_property
    def has_maps(self) -> bool:
        """Whether the encoder shows its last convolutions by a `tap`."""
        seen: list[Any] = []
        size = round(self.stage.data.seconds * self.sample_rate)

        def look(variables: Any, audio: Any, lengths: Any) -> Any:
            view = self._views(unlabelled(audio, lengths))["clean"]
            with tapped(lambda x: seen.append(x.shape) or x):  # type: ignore[func-returns-value]
                return nnx.merge(self.graphdef, variables).encoder(*view).frames

        audio = jax.ShapeDtypeStruct((1, size), jnp.float32)
        jax.eval_shape(look, self.variables, audio, jax.ShapeDtypeStruct((1,), jnp.int32))
        return bool(seen)

    @property
    def has_attention(self) -> bool:
        """Whether the encoder is a Transformer."""
        return isinstance(self.encoder, TokenEncoder) and hasattr(self.encoder, "transformer")

    @functools.cached_property
    def embedder(self) -> Embedder:
        """The encoder alone, which knows the times of its frames."""
        return Embedder(self.stage, self.encoder)

    def _in_rows(self, inputs: np.ndarray, call: Any) -> list[Any]:
        """Returns what `call` gives for each `ROWS` of the inputs; zeros fill up the last ones."""
        found = []
        for begin in range(0, len(inputs), ROWS):
            part = np.asarray(inputs[begin : begin + ROWS], np.float32)
            fill = [(0, ROWS - len(part))] + [(0, 0)] * (part.ndim - 1)
            found.append(jax.device_get(call(np.pad(part, fill))))
        return found

    def _logit(self, variables: Any, inputs: jax.Array, length: Any, label: Any) -> jax.Array:
        lengths = jnp.full([len(inputs)], length, jnp.int32)
        batch = {"views": (View(inputs, lengths),)}
        module = nnx.merge(self.graphdef, variables)
        return self.objective.predict(module, batch, Context())[:, label]

    def _total(self, variables: Any, inputs: jax.Array, length: Any, label: Any) -> tuple:
        values = self._logit(variables, inputs, length, label)
        return values.sum(), values

    def _maps_and_gradients(
        self, variables: Any, inputs: jax.Array, length: Any, label: Any
    ) -> tuple[jax.Array, jax.Array]:
        def shapes(x: jax.Array) -> jax.Array:
            kept: list[jax.Array] = []
            with tapped(lambda maps: kept.append(maps) or maps):  # type: ignore[func-returns-value]
                self._logit(variables, x, length, label)
            return kept[0]

        def shifted(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
            kept: list[jax.Array] = []

            def use(maps: jax.Array) -> jax.Array:
                kept.append(maps)
                return maps + shift

            with tapped(use):
                value = self._logit(variables, inputs, length, label).sum()
            return value, kept[0]

        like = jax.eval_shape(shapes, inputs)
        slopes, maps = jax.grad(shifted, has_aux=True)(jnp.zeros(like.shape, like.dtype))
        return maps, slopes

    def _weights(self, variables: Any, inputs: jax.Array, length: Any) -> jax.Array:
        encoder = nnx.merge(self.graphdef, variables).encoder
        lengths = jnp.full([len(inputs)], length, jnp.int32)
        tokens = encoder.tokens(inputs, lengths)
        inside = valid(tokens.features, tokens.lengths)[..., 0]
        if isinstance(encoder, SpectrogramTransformer):
            encoded = encoder.encode(tokens, hidden_states=True)
            both: Any = (encoded.class_states, encoded.patches.hidden_states)
            states = jnp.concatenate(both, 2)
            some = jnp.broadcast_to(inside.any(-1, keepdims=True), (len(inside), encoder.classes))
            inside = jnp.concatenate([some, inside], 1)
        else:
            states = encoder.context(tokens, hidden_states=True).hidden_states
        return encoder.transformer.attention_weights(states, inside)
