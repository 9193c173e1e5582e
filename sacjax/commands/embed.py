"""`python -m sacjax.embed --checkpoint WORKDIR PATH… --output FILE.npz|FILE.parquet [--frames] [--layer -1|K|mean] [--seconds S]`.

Turns sound files, or folders of them, of any rate and length into vectors of a trained encoder, whatever it was trained for: one a clip,
or with `--frames` one a frame. The encoder hears a window of `--seconds` at a time (default: that of its training): a clip's vector is the mean
over overlapping windows, its frames are those of windows end to end. The library behind it: `load(workdir)` gives an `Embedder`.
"""

import argparse
import bisect
import functools
import inspect
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax import compilation, errors, models
from sacjax.commands.predict import find_files
from sacjax.convert import huggingface
from sacjax.data import decode, pipeline, retry
from sacjax.data.recordings import Recordings
from sacjax.data.sources import OpenFiles
from sacjax.errors import UserError
from sacjax.evaluators import evaluate
from sacjax.train.checkpoint import load_trained
from sacjax.views import make_preprocess

ROWS = 16  # files read ahead, and pieces of sound in a batch, at most
SAMPLES = (
    1 << 21
)  # in a batch of pieces, at most: a large encoder's first layer makes about a gigabyte of them
LONGEST = 1 << 24  # samples; what gives too few frames of so many gives them at no regular interval
Layer = int | str


class Embedder:
    """A frozen encoder as a function from sound to vectors. `sample_rate` in Hz; `features` is D; `window` samples of training."""

    def __init__(
        self,
        stage: ConfigDict,
        encoder: Any,
        layer: Layer = -1,
        config: ConfigDict | None = None,
        name: str = "",
    ):
        """Args:
          stage: a stage's config: its `data` (rate, seconds), `frontend`, `model` and `eval` are used.
          encoder: of `sacjax.models`; it is put into evaluation mode.
          layer: -1: the encoder's output; k: the k-th of its Transformer's hidden states, 0 being its input; mean: of all of them.
            Of a pre-norm encoder the last hidden state is before the final norm, its output after it.
          config, name: the whole config and what the stage is called in it, where there is one.

        Raises:
          UserError: a layer that the encoder does not have.
        """
        _check_layer(encoder, stage.model.name, layer)
        encoder.eval()
        self.stage, self.layer, self.config, self.name = stage, layer, config, name
        self.sample_rate, self.features = int(stage.data.sample_rate), int(encoder.features)
        self.window = round(stage.data.seconds * self.sample_rate)
        graphdef, self.variables = nnx.split(encoder)
        preprocess = make_preprocess(stage, 1)
        hidden: dict[str, Any] = {} if layer == -1 else {"hidden_states": True}

        # The parameters are arguments, not constants, so that compiling stays quick.
        def encode(
            variables: Any, audio: jax.Array, length: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            rows = jnp.zeros(audio.shape[0], jnp.int32)
            batch = preprocess(
                {
                    "audio": audio,
                    "length": length,
                    "label": rows - 1,
                    "mask": rows + 1.0,
                    "index": rows,
                }
            )
            output = nnx.merge(graphdef, variables)(
                batch["inputs"], batch["input_length"], **hidden
            )
            return _pick(output, layer).astype(jnp.float32), output.lengths

        def clips(variables: Any, audio: jax.Array, length: jax.Array) -> jax.Array:
            x, count = encode(variables, audio, length)
            inside = (jnp.arange(x.shape[1]) < count[:, None])[..., None]
            return jnp.where(inside, x, 0).sum(1) / jnp.maximum(count, 1)[:, None]

        self._clips, self._frames = jax.jit(clips), jax.jit(encode)
        self._counts = jax.jit(
            lambda *args: encode(*args)[1]
        )  # all that makes frames is dead code, which XLA drops

    def clips(self, audio: Any, lengths: Any) -> jax.Array:
        """Audio int16, or float32 in [-1, 1], [B, T], valid samples [B] → float32 [B, D], the mean over valid frames."""
        return self._clips(self.variables, audio, lengths)

    def frames(self, audio: Any, lengths: Any) -> tuple[jax.Array, jax.Array]:
        """Audio [B, T], valid samples [B] → (float32 [B, T', D], valid frames int32 [B])."""
        return self._frames(self.variables, audio, lengths)

    @functools.cached_property
    def _grid(self) -> tuple[int, int]:
        """Returns (samples from frame to frame, samples that one whole frame needs of its own clip).

        Found by trial, whatever the encoder: with symmetric padding k frames need (k - 1) * hop + first samples.
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
        """Returns the frames of a clip of so many samples: 1 at least."""
        hop, first = self._grid
        return max((num_samples - first) // hop + 1, 1)

    def frame_times(self, num_samples: int) -> np.ndarray:
        """Returns the seconds [T'] at which the frames of a clip of so many samples have their centres, rising, within the clip."""
        hop, first = self._grid
        centres = np.arange(self.frame_count(num_samples)) * hop + (first - 1) / 2
        return np.clip(centres, 0, num_samples) / self.sample_rate

    def embed_frames(self, sounds: list[np.ndarray], size: int | None = None) -> list[np.ndarray]:
        """Returns each sound's frames, float32 [frame_count(n), D], of sounds [n] of any length, int16 or float32, all alike.

        Longer ones are cut into pieces of `size` samples (default: the window of training), each read so far that its last frame is whole:
        the frames of all pieces stand at one regular interval, those that the sound has in one piece.
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
            f"--layer is {layer}: {name} has no hidden states to choose from; only -1, its output, is there"
        )
    if layer != "mean" and not (isinstance(layer, int) and 0 <= layer <= encoder.depth):
        raise UserError(
            f"--layer is {layer}: {name} has layers 0 (its Transformer's input) to {encoder.depth}, or give -1 or mean"
        )


def _pick(output: Any, layer: Layer) -> jax.Array:
    """Returns the frames [B, T', D] of a layer of an encoder's output."""
    if layer == -1:
        return output.frames
    if layer == "mean":
        return output.hidden_states.astype(jnp.float32).mean(0)
    return output.hidden_states[layer]


def _power_of_two(number: int) -> int:
    """Returns the next power of two, so that batches of few sizes have to be compiled."""
    return 1 << max(number - 1, 0).bit_length()


def load(
    workdir: str | Path,
    which: str = "best",
    stage: str | None = None,
    layer: Layer = -1,
    seconds: float = 0.0,
) -> Embedder:
    """Returns the encoder of a workdir's last finished stage (or of `stage`), at its `best` or `last` checkpoint; or of `hf:PATH`.

    `seconds` is the window that it hears at a time; 0: that of its training.

    Raises:
      UserError: no workdir, no checkpoint in it, or a layer that its encoder does not have; or what `load_huggingface` says.
    """
    if (folder := huggingface.folder_of(str(workdir))) is not None:
        loaded = huggingface.load_huggingface(folder)
        encoder = loaded.model if loaded.kind == "bare" else loaded.model.encoder
        return Embedder(_with_window(huggingface.as_stage(loaded), seconds), encoder, layer)
    trained = load_trained(workdir, which, stage)
    model: Any = trained.model
    stage_config = _with_window(trained.stage_config, seconds)
    return Embedder(stage_config, model.encoder, layer, trained.config, trained.stage)


def _with_window(stage: ConfigDict, seconds: float) -> ConfigDict:
    """Returns the stage's config with another `data.seconds`, or as it is for 0. Raises UserError for less than 0."""
    if seconds < 0:
        raise UserError(f"--seconds is {seconds:g}: it must be more than 0")
    stage = stage.copy_and_resolve_references()
    stage.data.seconds = seconds or stage.data.seconds
    return stage


def untrained(embedder: Embedder, seed: int = 0) -> Embedder:
    """Returns the same network with fresh parameters: what an embedder must beat."""
    stage = embedder.stage
    num_features = stage.frontend.n_mfcc or stage.frontend.n_mels
    encoder = models.build_encoder(stage.model, num_features=num_features, rngs=nnx.Rngs(seed))
    return Embedder(stage, encoder, embedder.layer)


def embed_recordings(
    embedder: Embedder,
    recordings: Recordings,
    indices: np.ndarray,
    bad: dict[int, str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (vectors float32 [N, D], seen [N] bool) for all N recordings; only `indices` are read, each once.

    Long clips are embedded by windows, as they are evaluated, and averaged. `bad` takes the reasons why clips could not be read.
    """
    stage = embedder.stage.copy_and_resolve_references()
    stage.data.cache, stage.data.workers = False, 0
    size = min(stage.eval.batch_size, _power_of_two(max(len(indices), ROWS)))
    batches = pipeline.eval_batches(
        recordings, np.asarray(indices, int), stage.data, size, stage.eval.overlap
    )

    def apply(batch: dict) -> jax.Array:
        for index, error in zip(batch["index"], batch["error"], strict=True):
            if error and bad is not None:
                bad[int(index)] = error
        return embedder.clips(batch["audio"], batch["length"])

    vectors, seen = evaluate.predict(apply, batches, len(recordings), embedder.features)
    return vectors.astype(np.float32), seen


def read_whole(recordings: Recordings, index: int, sample_rate: int) -> np.ndarray:
    """Returns a whole recording as int16 [n] at `sample_rate`. Raises anything for a broken file."""
    clip = recordings.open(index)
    seconds = decode.count_samples(clip) / max(clip.sample_rate, 1)
    return decode.read_pcm(clip, sample_rate, 0.0, seconds)


def embed_recordings_by_frames(
    embedder: Embedder, recordings: Recordings, bad: dict[int, str]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Returns {index: (frames [T', D], their times [T'] in seconds)} of the recordings that can be read; `bad` takes the others."""

    def read(index: int) -> np.ndarray | str:
        try:
            return retry.attempt(lambda: read_whole(recordings, index, embedder.sample_rate))
        except retry.BadClip as bad:
            return str(bad)

    found = {}
    with ThreadPoolExecutor(ROWS, "decode") as pool:
        for begin in range(0, len(recordings), ROWS):
            places = range(begin, min(begin + ROWS, len(recordings)))
            sounds = dict(zip(places, pool.map(read, places), strict=True))
            bad |= {k: sound for k, sound in sounds.items() if isinstance(sound, str)}
            good = {k: sound for k, sound in sounds.items() if isinstance(sound, np.ndarray)}
            for k, frames in zip(
                good, embedder.embed_frames(list(good.values())) if good else [], strict=True
            ):
                found[k] = frames, embedder.frame_times(len(good[k]))
    return found


def write(
    path: Path, files: list[str], table: dict[str, np.ndarray], row_files: np.ndarray | None = None
) -> None:
    """Writes `files` and the arrays of `table` as .npz or .parquet, whole or not at all.

    Args:
      table: `embeddings` and what else a .npz holds.
      row_files: of frames, the file that each is of, as a place in `files`; a .parquet then has a row a frame, with its time.

    Raises:
      UserError: the place cannot be written.
    """
    # Names may hold bytes that are not UTF-8.
    names = [name.encode("utf-8", "backslashreplace").decode() for name in files]
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as out:
            if path.suffix == ".npz":
                np.savez(out, files=np.array(names, str), **table)  # type: ignore[arg-type]
            else:
                _write_parquet(out, names, table, row_files)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"--output {path}: cannot be written: {error.strerror}; choose another place"
        ) from error
    finally:
        if partial.is_file():
            partial.unlink()


def _write_parquet(
    out: Any, names: list[str], table: dict[str, np.ndarray], row_files: np.ndarray | None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = table["embeddings"]
    ends = np.arange(len(vectors) + 1) * vectors.shape[1]
    lists = (
        pa.LargeListArray if ends[-1] >= 1 << 31 else pa.ListArray
    )  # a list's places have 32 bits
    column = lists.from_arrays(
        pa.array(ends, pa.int64() if ends[-1] >= 1 << 31 else pa.int32()), vectors.ravel()
    )
    if row_files is None:
        columns = {"file": pa.array(names), "embedding": column}
    else:
        file = pa.DictionaryArray.from_arrays(
            pa.array(row_files, pa.int32()), pa.array(names)
        ).dictionary_decode()
        columns = {"file": file, "time": pa.array(table["times"]), "embedding": column}
    pq.write_table(pa.table(columns), out)


def layer_of(text: str) -> Layer:
    """Returns what a `--layer` flag says. Raises UserError for anything but a number or mean."""
    try:
        return text if text == "mean" else int(text)
    except ValueError:
        raise UserError(
            f"--layer is '{text}': give -1 (the last), a layer's number, or mean"
        ) from None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which encoder it is."""
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR")
    parser.add_argument(
        "--checkpoint_stage",
        metavar="NAME",
        help="the stage whose checkpoint it is (default: the last)",
    )
    parser.add_argument("--which", choices=("best", "last"), default="best")
    parser.add_argument(
        "--layer", default="-1", help="-1: the last (default), a layer's number from 0 on, or mean"
    )


def check_output(path: Path) -> None:
    """Raises UserError for a file that cannot be written, before anything is computed."""
    if path.suffix not in (".npz", ".parquet"):
        raise UserError(f"--output is '{path}': its name must end in .npz or .parquet")
    if path.is_dir():
        raise UserError(f"--output is '{path}': that is a folder; name a file")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                "--output: .parquet needs pyarrow: pip install pyarrow, or write .npz"
            ) from error


def main(argv: list[str] | None = None) -> int:
    """Parses flags, embeds and writes; 1 where no file could be read."""
    compilation.start()
    parser = argparse.ArgumentParser(
        prog="python -m sacjax.embed", description="Turns sounds into vectors."
    )
    add_flags(parser)
    parser.add_argument(
        "--frames", action="store_true", help="a vector a frame instead of one a clip"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        help="the window that the encoder hears at a time (default: that of its training)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="FILE.npz or FILE.parquet")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound file or folder")
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    layer, output = layer_of(args.layer), Path(args.output)
    check_output(output)
    files = find_files(args.paths)
    embedder = load(args.checkpoint, args.which, args.checkpoint_stage, layer, args.seconds)
    recordings, bad = Recordings(files, [()] * len(files), (), OpenFiles(files)), dict[int, str]()
    table: dict[str, np.ndarray]
    row_files = None
    if args.frames:
        found = embed_recordings_by_frames(embedder, recordings, bad)
        good = sorted(found)
    else:
        vectors, seen = embed_recordings(embedder, recordings, np.arange(len(files)), bad)
        good = np.flatnonzero(seen).tolist()
    for k in sorted(bad):
        print(f"skipped {files[k]}: {bad[k]}", file=sys.stderr)
    if not good:
        return 1
    if args.frames:
        counts = [len(found[k][0]) for k in good]
        row_files = np.repeat(np.arange(len(good)), counts)
        table = {
            "embeddings": np.concatenate([found[k][0] for k in good]),
            "offsets": np.concatenate([[0], np.cumsum(counts)]),
            "times": np.concatenate([found[k][1] for k in good]),
            "frame_seconds": np.array(embedder.frame_seconds),
        }
    else:
        table = {"embeddings": vectors[good]}
    write(output, [files[k] for k in good], table, row_files)
    print(f"{output}: {len(good)} files, {len(table['embeddings'])} vectors of {embedder.features}")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
