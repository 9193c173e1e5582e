"""A frozen encoder as a function from sound of any length to vectors."""

import bisect
import functools
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.data import decode, pipeline, retry
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError, nearest
from sacjax.evaluators.predictions import predict
from sacjax.layers.pooling import KINDS, Pooling
from sacjax.views import Views, make_views

ROWS = 16  # files read ahead, and pieces of sound in a batch, at most
# Samples in a batch of pieces, at most. A large encoder's first layer needs about a gigabyte for
# them.
SAMPLES = 1 << 21
# Samples. An encoder that gives too few frames for so many has no regular interval.
LONGEST = 1 << 24
Layer = int | str

POOLINGS = tuple(kind for kind in KINDS if kind != "attention")  # those that learn nothing


class Embedder:
    """A frozen encoder as a function from sound to vectors.

    Attributes:
      sample_rate: Hz.
      features: D of a vector.
      window: samples that it hears at a time, those of its training.
    """

    def __init__(self, stage: ConfigDict, encoder: Any, layer: Layer = -1, pooling: str = "mean"):
        """Takes an encoder.

        Args:
          stage: a stage's config: its `data` (rate, seconds), `frontend`, `model` and `eval` are
            used.
          encoder: of `sacjax.models`.
          layer: -1: the encoder's output; k: the k-th of its Transformer's hidden states, 0 being
            its input; mean: of all of them. Of a pre-norm encoder the last hidden state is before
            the final norm, its output after it.
          pooling: of frames to a clip's vector; one of `POOLINGS`.

        Raises:
          UserError: a layer that the encoder does not have, or an unknown pooling.
        """
        _check_layer(encoder, stage.model.name, layer)
        if pooling not in POOLINGS:
            raise UserError(f"--pooling is '{pooling}'{nearest(pooling, POOLINGS)}")
        pool = Pooling(pooling, int(encoder.features), rngs=nnx.Rngs(0))
        self.clip_features = pool.features
        self.stage, self.layer = stage, layer
        self.sample_rate, self.features = int(stage.data.sample_rate), int(encoder.features)
        self.window = round(stage.data.seconds * self.sample_rate)
        graphdef, self.variables = nnx.split(encoder)
        whole = stage.copy_and_resolve_references()
        whole.frontend.update(trim_db=0.0, repeat_seconds=0.0)  # frames keep their times
        hidden: dict[str, Any] = {} if layer == -1 else {"hidden_states": True}

        # The parameters are arguments, not constants, so that compiling stays quick.
        def encode(
            views: Views, variables: Any, audio: jax.Array, length: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            view = views(unlabelled(audio, length))["clean"]
            encoder = nnx.merge(graphdef, variables)
            output = encoder(view.inputs, view.lengths, Context(), **hidden)
            return _pick(output, layer).astype(jnp.float32), output.lengths

        of_clips = functools.partial(encode, make_views(stage, 1))
        of_frames = functools.partial(encode, make_views(whole, 1))
        self._frames = jax.jit(of_frames)
        self._clips = jax.jit(lambda *args: pool(*of_clips(*args)))
        # All that makes frames is dead code here, which XLA drops.
        self._counts = jax.jit(lambda *args: of_frames(*args)[1])

    def clips(self, audio: Any, lengths: Any) -> jax.Array:
        """Returns float32 [B, D], the pooled frames.

        Args:
          audio: int16, or float32 in [-1, 1], [B, T].
          lengths: valid samples, int32 [B].
        """
        return self._clips(self.variables, audio, lengths)

    def frames(self, audio: Any, lengths: Any) -> tuple[jax.Array, jax.Array]:
        """Returns (frames float32 [B, N, D], valid frames int32 [B]).

        Args:
          audio: as of `clips`.
          lengths: as of `clips`.
        """
        return self._frames(self.variables, audio, lengths)

    def hears(self, samples: int) -> bool:
        """Returns whether the encoder takes so many samples at once; its positions may be fewer."""
        audio = jax.ShapeDtypeStruct([1, samples], jnp.float32)
        try:
            jax.eval_shape(
                self._frames, self.variables, audio, jax.ShapeDtypeStruct([1], jnp.int32)
            )
        except UserError:
            return False
        return True

    @functools.cached_property
    def _grid(self) -> tuple[int, int]:
        """Returns (samples from a frame to the next, samples of the first frame).

        With symmetric padding, k frames need (k - 1) * hop + first samples. The two are found by
        bisection, so that they fit any encoder.
        """
        audio = np.zeros([1, self.window], np.int16)

        def count(length: int) -> int:
            return int(self._counts(self.variables, audio, np.full(1, length, np.int32))[0])

        third, fourth = (bisect.bisect_left(range(LONGEST), frames, key=count) for frames in (3, 4))
        if fourth == LONGEST or fourth == third:
            raise UserError(
                f"the frames of model.name={self.stage.model.name} have no regular interval"
            )
        return fourth - third, third - 2 * (fourth - third)

    @property
    def hop(self) -> int:
        """Samples from a frame to the next."""
        return self._grid[0]

    @property
    def frame_seconds(self) -> float:
        """Seconds from a frame to the next."""
        return self.hop / self.sample_rate

    def frame_count(self, num_samples: int) -> int:
        """Returns the number of frames of a clip of `num_samples`, at least 1."""
        hop, first = self._grid
        return max((num_samples - first) // hop + 1, 1)

    def frame_times(self, num_samples: int) -> np.ndarray:
        """Returns the times [T'] in seconds of the frames' centres in a clip of `num_samples`.

        They rise, and lie within the clip.
        """
        hop, first = self._grid
        centres = np.arange(self.frame_count(num_samples)) * hop + (first - 1) / 2
        return np.clip(centres, 0, num_samples) / self.sample_rate

    def embed_frames(self, sounds: list[np.ndarray], size: int | None = None) -> list[np.ndarray]:
        """Returns the frames of each sound, float32 [frame_count(n), D].

        A long sound is cut into pieces that overlap so far that the last frame of each is whole.
        The frames of all pieces therefore lie at one regular interval, where the frames of the
        uncut sound would lie.

        Args:
          sounds: samples [n] of any length, all int16 or all float32.
          size: samples of a piece; None: the window of training.
        """
        size = max(size or self.window, self.hop)
        table = [
            (k, *piece)
            for k, sound in enumerate(sounds)
            for piece in self._pieces(len(sound), size)
        ]
        rows = _power_of_two(min(ROWS, len(table), max(SAMPLES // size, 1)))
        found: list[list[np.ndarray]] = [[] for _ in sounds]
        for begin in range(0, len(table), rows):
            part = table[begin : begin + rows]
            audio, lengths = np.zeros([rows, size], sounds[0].dtype), np.zeros(rows, np.int32)
            for row, (k, start, _) in enumerate(part):
                piece = sounds[k][start : start + size]
                audio[row, : len(piece)], lengths[row] = piece, len(piece)
            frames = np.asarray(self.frames(audio, lengths)[0])
            for row, (k, _, count) in enumerate(part):
                found[k].append(frames[row, :count])
        return [np.concatenate(pieces) for pieces in found]

    def _pieces(self, num_samples: int, size: int) -> list[tuple[int, int]]:
        """Returns (first sample, frames to take) of the pieces of a sound."""
        full = max(min(self.frame_count(size), size // self.hop), 1)
        left, pieces = self.frame_count(num_samples), []
        for start in range(0, num_samples, full * self.hop):
            last = num_samples - start <= size
            pieces.append((start, left if last else full))
            left -= full
            if last or left <= 0:
                break
        return pieces


def _check_layer(encoder: Any, name: str, layer: Layer) -> None:
    """Raises UserError for a layer that the encoder does not have."""
    if layer == -1:
        return
    if "hidden_states" not in inspect.signature(type(encoder).__call__).parameters:
        raise UserError(
            f"--layer is {layer}: {name} has no hidden states to choose from; only -1, its output, "
            "is there"
        )
    if layer != "mean" and not (isinstance(layer, int) and 0 <= layer <= encoder.depth):
        raise UserError(
            f"--layer is {layer}: {name} has layers 0 (its Transformer's input) to "
            f"{encoder.depth}, or give -1 or mean"
        )


def _pick(output: Any, layer: Layer) -> jax.Array:
    """Returns the frames [B, T', D] of a layer of an encoder's output."""
    if layer == -1:
        return output.frames
    if layer == "mean":
        return output.hidden_states.astype(jnp.float32).mean(0)
    return output.hidden_states[layer]


def _power_of_two(number: int) -> int:
    """Returns the next power of two; batches of such sizes need few compilations."""
    return 1 << max(number - 1, 0).bit_length()


def unlabelled(audio: jax.Array, length: jax.Array) -> dict[str, jax.Array]:
    """Returns a batch for `make_views` of audio [B, T] and valid samples [B], without labels."""
    rows = jnp.zeros(audio.shape[0], jnp.int32)
    return {"audio": audio, "length": length, "label": rows - 1, "mask": rows + 1.0, "index": rows}


def embed_recordings(
    embedder: Embedder, recordings: Recordings, indices: np.ndarray, bad: dict[int, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (vectors float32 [n, D], seen bool [n]) of the recordings at `indices` [n].

    Long clips are embedded window by window, as in evaluation, and averaged. The reasons why clips
    could not be read are added to `bad`, by their index.
    """
    batches = file_batches(recordings, indices, embedder.stage)

    def apply(batch: dict[str, Any]) -> jax.Array:
        note_errors(batch, bad)
        return embedder.clips(batch["audio"], batch["length"])

    vectors, seen = predict(apply, batches, indices, embedder.clip_features)
    return vectors.astype(np.float32), seen


def file_batches(recordings: Recordings, indices: np.ndarray, stage: ConfigDict) -> Any:
    """Yields evaluation batches of recordings that are each read once."""
    data = stage.data.copy_and_resolve_references()
    data.cache, data.workers = False, 0
    size = min(stage.eval.batch_size, _power_of_two(len(indices)), ROWS)
    return pipeline.eval_batches(recordings, indices, data, size, stage.eval.overlap)


def note_errors(batch: dict[str, Any], bad: dict[int, str]) -> None:
    """Adds to `bad` the reasons why clips of a batch could not be read, by their index."""
    for index, error in zip(batch["index"], batch["error"], strict=True):
        if error:
            bad[int(index)] = error


def read_whole(recordings: Recordings, index: int, sample_rate: int) -> np.ndarray:
    """Returns a whole recording as int16 [n] at `sample_rate`.

    Raises anything for a broken file.
    """
    clip = recordings.open(index)
    seconds = decode.count_samples(clip) / max(clip.sample_rate, 1)
    return decode.read_pcm(clip, sample_rate, 0.0, seconds)


def embed_recordings_by_frames(
    embedder: Embedder, recordings: Recordings, bad: dict[int, str]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Returns {index: (frames [T', D], their times [T'] in seconds)} of recordings.

    Those that cannot be read are left out; the reasons are added to `bad`, by index.
    """

    def read(index: int) -> np.ndarray | str:
        try:
            return retry.attempt(lambda: read_whole(recordings, index, embedder.sample_rate))
        except retry.BadClip as bad:
            return str(bad)

    found = {}
    with ThreadPoolExecutor(ROWS, "decode") as pool:
        for begin in range(0, len(recordings), ROWS):
            indices = range(begin, min(begin + ROWS, len(recordings)))
            sounds = dict(zip(indices, pool.map(read, indices), strict=True))
            bad |= {k: sound for k, sound in sounds.items() if isinstance(sound, str)}
            good = {k: sound for k, sound in sounds.items() if isinstance(sound, np.ndarray)}
            for k, frames in zip(
                good, embedder.embed_frames(list(good.values())) if good else [], strict=True
            ):
                found[k] = frames, embedder.frame_times(len(good[k]))
    return found
