"""The API of the HEAR benchmark (Turian et al. 2022) for a trained workdir.

See https://hearbenchmark.com/hear-api.html.

    model = sacjax.hear.load_model("runs/mine")
    # [n_sounds, n_timestamps, D], milliseconds.
    embeddings, timestamps = sacjax.hear.get_timestamp_embeddings(audio, model)
    embeddings = sacjax.hear.get_scene_embeddings(audio, model)                     # [n_sounds, D]

Sound is given as NumPy arrays, or what converts to them; embeddings are NumPy arrays.
"""

from typing import Any

import numpy as np

from sacjax import inference
from sacjax.errors import UserError

# Seconds. Longer sounds are encoded in pieces of this length, as the cost of attention grows with
# the square of it; by an encoder that hears no more than its table of positions, in those of its
# training.
ONE_PIECE = 60.0


class Model:
    """An encoder with the attributes that HEAR asks for."""

    def __init__(self, embedder: inference.Embedder):
        self.embedder = embedder
        self.sample_rate = embedder.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = embedder.features


def load_model(model_file_path: str = "") -> Model:
    """Returns the encoder of a workdir. Raises UserError where there is none."""
    if not model_file_path:
        raise UserError(
            "load_model needs a workdir of sacjax as model_file_path: it has no weights of its own"
        )
    return Model(inference.load(model_file_path).embedder())


def get_timestamp_embeddings(audio: Any, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embeddings of frames and their timestamps.

    The timestamps are the frames' centres, at a regular interval; there is at least one.

    Args:
      audio: [n_sounds, n_samples] in [-1, 1] at `model.sample_rate`.

    Returns:
      (embeddings float32 [n_sounds, n_timestamps, D], timestamps float32 [n_sounds, n_timestamps]
      in milliseconds).

    Raises:
      UserError: audio of another shape, or none.
    """
    if hasattr(audio, "detach"):  # torch: NumPy cannot read a GPU's tensor or one with a gradient
        audio = audio.detach().cpu()
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 2 or not audio.size:
        raise UserError(
            f"audio has shape {audio.shape}: give [n_sounds, n_samples], one of each at least"
        )
    embedder, samples = model.embedder, audio.shape[1]
    size = min(
        padded_size(max(samples, embedder.stage.frontend.n_fft)),
        round(ONE_PIECE * embedder.sample_rate),
    )
    if size > embedder.window and not embedder.hears(size):
        size = embedder.window
    embeddings = np.stack(embedder.embed_frames(list(audio), size))
    times = 1000 * embedder.frame_times(samples)
    return embeddings, np.tile(times.astype(np.float32), (len(audio), 1))


def get_scene_embeddings(audio: Any, model: Model) -> np.ndarray:
    """Returns float32 [n_sounds, D]: the mean of `get_timestamp_embeddings` over time."""
    return get_timestamp_embeddings(audio, model)[0].mean(1)


def padded_size(samples: int) -> int:
    """Returns a size from `samples` to a quarter above it, of which few are ever compiled.

    There are four sizes from each power of two to the next.
    """
    step = 1 << max(samples.bit_length() - 3, 0)
    return -(-samples // step) * step
