"""How fast sacjax is beside transformers, torch, librosa and a torch DataLoader, on this machine: one JSON and one table.

    python launch/benchmarks/speed.py --output speed.json              # everything; a quarter of an hour on two quiet cores
    python launch/benchmarks/speed.py --only d e --repeats 9           # some parts

a, b: a training step of wav2vec 2.0 base, pretraining and fine-tuning; c: its inference; d: log-mel and SpecAugment; e: the input pipeline,
in as many threads as the DataLoader has processes; f: the front end's share of a training step; g: from a command to the end of its first step; h: a training step
of a spectrogram ResNet-18.

Both sides run on all cores (or the GPU), in turn, after a warm-up; the figures are medians. Another library runs in a process of its own, as
sacjax sets up its process by `compilation.start`. They do the same work: the same
batch, network and dropout rates, float32 (TF32 products on a GPU, JAX's default, on both sides), gradients, clipping and AdamW included. Layer drop
is off, as transformers skips a dropped layer and sacjax does not. Targets are those of two cores. Needs the extras `test` and `parity`.
"""

import argparse
import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import soundfile
from flax import nnx
from ml_collections import ConfigDict

from sacjax import compilation, errors, objectives
from sacjax import config as config_lib
from sacjax.convert.huggingface import huggingface_config
from sacjax.data import pipeline, prepare, sources
from sacjax.errors import UserError
from sacjax.train import loop as train
from sacjax.train import sharding
from sacjax.views import make_preprocess

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 20
FORMATS = {"ogg": "VORBIS", "wav": "PCM_16", "flac": "PCM_16"}
Run = Callable[
    [], float | None
]  # does the work once; returns seconds where it measures them itself


class Sizes(NamedTuple):
    """What is measured on."""

    encoder: str = "base"
    clips: int = 2  # of a training step of wav2vec 2.0
    inference_clips: int = 8
    seconds: float = 5.0
    spectrograms: int = 32
    width: int = 64  # of the ResNet's first stage
    resnet_clips: int = 16
    files: int = 40  # of each format
    long_files: int = 8
    long_parts: int = 12  # clips that a long file is made of
    batch: int = 16  # of the input pipeline
    batches: int = 20


SMALL = Sizes("mini", 2, 2, 0.5, 4, 4, 2, 20, 2, 2, 2, 3)


class Case(NamedTuple):
    """One thing to measure."""

    what: str
    ours: Run
    peers: dict[str, Run]
    targets: dict[str, float] = {}  # {peer: how many times faster ours shall be}
    clips: int = 0  # of a run, where clips a second tell more than seconds
    share: bool = False  # the figure is ours as a share of the peer's time, the target the most that it may be


def need(module: str, extra: str) -> Any:
    """Returns a peer's module. Raises UserError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"this part measures {module}, which is absent: pip install -e '.[{extra}]'"
        ) from error


@functools.cache
def peer_torch() -> tuple[Any, str]:
    """Returns (torch, the device it computes on): all cores, or the GPU where JAX computes on one."""
    torch = need("torch", "parity")
    torch.set_num_threads(pipeline.cores())
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX; nothing on a CPU
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise UserError("JAX has a GPU and torch has none: install torch's CUDA build")
    return torch, "cuda" if jax.default_backend() == "gpu" else "cpu"


def finish() -> None:
    """Waits for torch's GPU."""
    torch, device = peer_torch()
    if device == "cuda":
        torch.cuda.synchronize()


def peer_variants(make: Callable[[Callable], Run], name: str) -> dict[str, Run]:
    """Returns {peer: run} of what `make` builds, given a function that prepares a model: eager, and compiled on a GPU."""
    torch, device = peer_torch()
    runs = {name: make(lambda model: model)}
    return runs | ({f"{name}, torch.compile": make(torch.compile)} if device == "cuda" else {})


def same_for(peers: dict[str, Run], target: float) -> dict[str, float]:
    """Returns that target for each of the peers."""
    return dict.fromkeys(peers, target)


class Ours:
    """A stage of a config with a batch of noise: its train step, prediction and preprocessing."""

    def __init__(self, config: ConfigDict, name: str):
        self.stage, self.mesh = config[name], sharding.make_mesh(config.mesh)
        self.objective = objectives.build(
            self.stage, tuple(map(str, range(CLASSES))), np.ones(CLASSES)
        )
        self.batch = noise(self.stage, self.objective.num_classes)
        self.preprocess = jax.jit(make_preprocess(self.stage, self.objective.num_classes))

    @functools.cached_property
    def program(self) -> train.Program:
        """The compiled functions; made when first asked for, as one part needs the preprocessing alone."""
        return train.make_program(self.objective, self.stage, self.mesh, 10_000, seed=0)

    @functools.cached_property
    def state(self) -> train.TrainState:
        """Parameters and all else that a step changes."""
        return self.program.init()

    def step(self) -> None:
        """One update, from a batch in host memory."""
        self.state = self.program.step(self.state, sharding.put_batch(self.batch, self.mesh))
        jax.block_until_ready(self.state)

    def predict(self) -> None:
        """Logits of the batch."""
        jax.block_until_ready(
            self.program.predict(self.state, sharding.put_batch(self.batch, self.mesh))
        )

    def features(self) -> None:
        """What a train step does before the network: front end and augmentation."""
        jax.block_until_ready(
            self.preprocess(sharding.put_batch(self.batch, self.mesh), jax.random.key(0))
        )

    def peer(self, kind: str, **changes: Any) -> Any:
        """Returns transformers' model of the same shape, with fresh parameters."""
        transformers, (_, device) = need("transformers", "parity"), peer_torch()
        config = (
            huggingface_config(nnx.eval_shape(lambda: self.objective.build(nnx.Rngs(0)))) | changes
        )
        model = getattr(transformers, kind)._from_config(
            transformers.Wav2Vec2Config.from_dict(config), attn_implementation="sdpa"
        )
        return model.to(device)

    def peer_batch(self) -> tuple[Any, Any]:
        """Returns (audio float32 [B, T], labels [B]) as torch's tensors on the host."""
        torch, _ = peer_torch()
        audio = torch.from_numpy(self.batch["audio"].astype(np.float32) / 32768)
        return audio, torch.from_numpy(self.batch["label"].astype(np.int64))


def noise(stage: ConfigDict, classes: int) -> dict[str, np.ndarray]:
    """Returns a batch of full-length clips of noise."""
    shapes = train.batch_shapes(stage, stage.train.batch_size, classes)
    size, samples = shapes["audio"].shape
    audio = np.random.default_rng(0).normal(0, 3000, (size, samples)).astype(np.int16)
    rows = np.arange(size, dtype=np.int32)
    length = np.full(size, samples, np.int32)
    return dict(
        audio=audio, length=length, index=rows, label=rows % CLASSES, mask=np.ones(size, np.float32)
    )


def load(spec: str, stage: str, **changes: Any) -> ConfigDict:
    """Returns a config of `configs/` with values of a stage changed; a name's __ stands for a dot."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.load(
        str(ROOT / "configs" / spec), [f"--config.{stage}.{k}={v}" for k, v in values.items()]
    )


def torch_step(model: Any, loss: Callable[[], Any], clip_norm: float) -> Run:
    """Returns one update of a torch model by AdamW."""
    torch, _ = peer_torch()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    model.train()

    def step() -> None:
        loss().backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        finish()

    return step


def pretraining_config(sizes: Sizes) -> ConfigDict:
    """wav2vec 2.0 base on a batch that two cores take."""
    return load(
        "wav2vec2/base_pretrain.py", "pretrain", train__batch_size=sizes.clips, data__seconds=sizes.seconds, model__dtype="float32",
        model__encoder__size=sizes.encoder, model__encoder__layer_drop=0.0,
    )  # fmt: skip


def finetuning_config(sizes: Sizes, clips: int) -> ConfigDict:
    """The same encoder with a classifier; frozen convolutions, and a Transformer that learns from the first step on."""
    return load(
        "wav2vec2/finetune.py", "finetune", train__batch_size=clips, data__seconds=sizes.seconds,
        model__encoder__size=sizes.encoder, model__encoder__layer_drop=0.0,
        optimizer__freeze=(("encoder/conv", 0),),
    )  # fmt: skip


def resnet_config(sizes: Sizes, **changes: Any) -> ConfigDict:
    """A ResNet-18 of full width on ESC-50's log-mel spectrograms, with SpecAugment alone."""
    values: dict[str, Any] = dict(
        train__batch_size=sizes.resnet_clips, data__seconds=sizes.seconds, model__encoder__width=sizes.width,
        model__pooling="mean", augment__waveform=(),
    )  # fmt: skip
    return load("esc50/resnet.py:no_mixup", "supervised", **values | changes)


def pretraining(sizes: Sizes) -> Iterator[Case]:
    """(a)"""
    helpers = need("transformers.models.wav2vec2.modeling_wav2vec2", "parity")
    torch, device = peer_torch()
    ours = Ours(pretraining_config(sizes), "pretrain")
    audio, _ = ours.peer_batch()

    def make(prepare_model: Callable) -> Run:
        # transformers masks nothing, not even where it is told to, without apply_spec_augment.
        model = ours.peer("Wav2Vec2ForPreTraining", apply_spec_augment=True)
        shape = (len(audio), int(model._get_feat_extract_output_lengths(audio.shape[1])))
        # Drawn once: a DataLoader's workers would do that beside the step. Ours are drawn in the step.
        mask = helpers._compute_mask_indices(shape, 0.65, 10, min_masks=2)
        negatives = helpers._sample_negative_indices(shape, model.config.num_negatives, mask)
        mask, negatives = torch.from_numpy(mask), torch.from_numpy(negatives).long()
        run = prepare_model(model)

        def loss() -> Any:
            given = dict(
                mask_time_indices=mask.to(device), sampled_negative_indices=negatives.to(device)
            )
            return run(audio.to(device), **given).loss

        return torch_step(model, loss, ours.stage.optimizer.clip_norm)

    peers = peer_variants(make, "transformers")
    yield Case(
        f"wav2vec 2.0 {sizes.encoder}, pretraining step, {shape_of(ours)}",
        ours.step,
        peers,
        same_for(peers, 2.5),
    )


def finetuning(sizes: Sizes) -> Iterator[Case]:
    """(b)"""
    _, device = peer_torch()
    ours = Ours(finetuning_config(sizes, sizes.clips), "finetune")
    audio, labels = ours.peer_batch()

    def make(prepare_model: Callable) -> Run:
        model = ours.peer("Wav2Vec2ForSequenceClassification")
        model.freeze_feature_encoder()
        run = prepare_model(model)
        return torch_step(
            model,
            lambda: run(audio.to(device), labels=labels.to(device)).loss,
            ours.stage.optimizer.clip_norm,
        )

    peers = peer_variants(make, "transformers")
    yield Case(
        f"wav2vec 2.0 {sizes.encoder}, fine-tuning step, {shape_of(ours)}",
        ours.step,
        peers,
        same_for(peers, 2.0),
    )


def inference(sizes: Sizes) -> Iterator[Case]:
    """(c)"""
    torch, device = peer_torch()
    ours = Ours(finetuning_config(sizes, sizes.inference_clips), "finetune")
    audio, _ = ours.peer_batch()

    def make(prepare_model: Callable) -> Run:
        model = prepare_model(ours.peer("Wav2Vec2ForSequenceClassification").eval())

        def run() -> None:
            with torch.inference_mode():
                model(audio.to(device))
            finish()

        return run

    peers = peer_variants(make, "transformers")
    yield Case(
        f"wav2vec 2.0 {sizes.encoder}, inference, {shape_of(ours)}",
        ours.predict,
        peers,
        same_for(peers, 2.0),
    )


def shape_of(ours: Ours) -> str:
    """Returns a batch in words."""
    return f"{ours.stage.train.batch_size} × {ours.stage.data.seconds:g} s"


def torch_mask(x: Any, axis: int, count: int, width: int) -> Any:
    """Returns spectrograms [B, …] with `count` spans of 0 to `width` places along an axis blanked, drawn for each clip, as SpecAugment does."""
    torch, _ = peer_torch()
    size = x.shape[axis]
    u = torch.rand(2, len(x), count, 1, device=x.device)
    span = (u[0] * (min(width, size) + 1)).floor()
    start = (u[1] * (size - span + 1)).floor()
    place = torch.arange(size, device=x.device)
    masked = ((place >= start) & (place < start + span)).any(1)
    return x.masked_fill(masked.unsqueeze(3 - axis), 0.0)


def torch_specaugment(x: Any, stage: ConfigDict, time_axis: int) -> Any:
    """Returns spectrograms masked as the config says."""
    axes = {"frequency_mask": 3 - time_axis, "time_mask": time_axis}
    for spec in stage.augment.spectrogram:
        x = torch_mask(x, axes[spec["name"]], spec["count"], spec["width"])
    return x


def torch_features(stage: ConfigDict) -> Callable[[Any], Any]:
    """Returns audio float32 [B, T] → the config's log-mel spectrogram [B, mels, frames] with SpecAugment, in torch."""
    torch, device = peer_torch()
    c = stage.frontend
    filters = torch.from_numpy(
        need("librosa", "test").filters.mel(
            sr=stage.data.sample_rate, n_fft=c.n_fft, n_mels=c.n_mels
        )
    ).to(device)
    window = torch.hann_window(c.n_fft, device=device)

    def features(audio: Any) -> Any:
        x = torch.stft(
            audio, c.n_fft, c.hop_length, window=window, pad_mode="reflect", return_complex=True
        )
        x = 10 * torch.log10((filters @ (x.real.square() + x.imag.square())).clamp(min=c.floor))
        x = torch.maximum(x, x.amax((1, 2), keepdim=True) - c.top_db)
        return torch_specaugment((x - c.mean) / c.std, stage, time_axis=2)

    return features


def log_mel(sizes: Sizes) -> Iterator[Case]:
    """(d), at the AST extractor's rate, hop and number of bands."""
    torch, device = peer_torch()
    librosa, transformers = need("librosa", "test"), need("transformers", "parity")
    config = resnet_config(
        sizes, train__batch_size=sizes.spectrograms, data__sample_rate=16000, frontend__n_fft=1024, frontend__hop_length=160
    )  # fmt: skip
    ours = Ours(config, "supervised")
    stage, c, (audio, _) = ours.stage, ours.stage.frontend, ours.peer_batch()
    samples, features = audio.numpy(), torch_features(ours.stage)
    extract = transformers.ASTFeatureExtractor(
        num_mel_bins=c.n_mels, max_length=1 + samples.shape[1] // c.hop_length
    )

    def by_torch() -> None:
        features(audio.to(device))
        finish()

    def by_librosa() -> None:
        x = librosa.feature.melspectrogram(
            y=samples,
            sr=stage.data.sample_rate,
            n_fft=c.n_fft,
            hop_length=c.hop_length,
            n_mels=c.n_mels,
        )
        x = librosa.power_to_db(x, top_db=c.top_db)
        torch_specaugment(torch.from_numpy((x - c.mean) / c.std), stage, time_axis=2)

    def by_extractor() -> None:
        x = extract(list(samples), sampling_rate=stage.data.sample_rate, return_tensors="pt")[
            "input_values"
        ]
        torch_specaugment(x, stage, time_axis=1)

    peers: dict[str, Run] = {
        "torch.stft": by_torch,
        "librosa": by_librosa,
        "transformers' AST extractor": by_extractor,
    }
    targets = dict(zip(peers, (1.5, 1.5, 5.0), strict=True))
    yield Case(
        f"log-mel + SpecAugment, {shape_of(ours)}, {c.n_mels} bands", ours.features, peers, targets
    )


class SoundFiles:
    """A torch data set over sound files: the samples of a random crop, mono float32, read by soundfile."""

    def __init__(self, paths: list[str], size: int, seek: bool):
        """Reads no more than the crop where it may `seek`, else the whole file."""
        self.paths, self.size, self.seek = paths, size, seek

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        import torch

        with soundfile.SoundFile(self.paths[i]) as file:
            start = np.random.randint(max(file.frames - self.size, 0) + 1)
            if self.seek:
                file.seek(start)
            samples = file.read(
                self.size if self.seek else -1, dtype="float32", always_2d=True
            ).mean(1)
        samples = samples if self.seek else samples[start : start + self.size]
        return torch.from_numpy(np.pad(samples, (0, self.size - len(samples))))


def timed(batches: Iterator[Any], sizes: Sizes) -> float:
    """Returns the seconds for some batches in the middle of a stream, whose start and end differ."""
    for _ in range(ahead()):
        next(batches)
    begin = time.perf_counter()
    for _ in range(sizes.batches):
        next(batches)
    return time.perf_counter() - begin


def ahead() -> int:
    """Returns how many batches are taken before the clock starts: those that may be made ahead."""
    return 2 * pipeline.cores()


def our_pipeline(data: ConfigDict, sizes: Sizes) -> Run:
    """Returns what reads a stream of batches by sacjax, in as many threads as there are cores."""
    recordings = sources.load(data)
    # Each file many times: Grain takes milliseconds to shuffle a place among a few, microseconds among as many as a data set has.
    indices = np.arange(4096) % len(recordings)

    def run() -> float:
        batches = iter(pipeline.train_batches(recordings, indices, data, sizes.batch, seed=0))
        seconds = timed(batches, sizes)
        batches.close()
        return seconds

    return run


def torch_pipeline(data: ConfigDict, sizes: Sizes, seek: bool) -> Run:
    """Returns what reads a stream of batches by a torch DataLoader, in as many processes as there are cores."""
    torch, _ = peer_torch()
    paths = sources.load(data).paths or []
    count = sizes.batch * (sizes.batches + 2 * ahead())
    order = np.random.default_rng(0).permutation(np.arange(count) % len(paths)).tolist()
    # Forked from a server, as a fork of a process with JAX's threads may hang; what it imports beforehand starts quickly.
    multiprocessing.set_forkserver_preload(["torch", "sacjax.train"])
    loader = torch.utils.data.DataLoader(
        SoundFiles(paths, round(data.seconds * data.sample_rate), seek), batch_size=sizes.batch, sampler=order,
        num_workers=pipeline.cores(), persistent_workers=True, multiprocessing_context="forkserver",
    )  # fmt: skip

    def run() -> float:
        batches = iter(loader)
        seconds = timed(batches, sizes)
        for _ in batches:  # so that nothing is read beside the next measurement
            pass
        return seconds

    return run


def data_config(source: str, path: Path, seconds: float) -> ConfigDict:
    """Returns how a folder is read: at its own rate, in crops of so many seconds."""
    data = config_lib.default().supervised.data
    data.source, data.path, data.sample_rate, data.seconds = source, str(path), 44100, seconds
    return data


def write_sounds(folder: Path, sizes: Sizes) -> None:
    """Writes the same synthesized clips in each format, and long FLAC files made of several, as FOLDER/FORMAT/LABEL/FILE."""
    data = data_config("synthetic", folder, sizes.seconds)
    data.examples = sizes.files
    recordings = sources.load(data)
    clips = [
        recordings.open(i).read(0, round(data.seconds * data.sample_rate))
        for i in range(sizes.files)
    ]
    long = [
        np.concatenate([clips[(k + j) % len(clips)] for j in range(sizes.long_parts)])
        for k in range(sizes.long_files)
    ]
    for name, sounds, kind in [*((kind, clips, kind) for kind in FORMATS), ("long", long, "flac")]:
        (folder / name / "sound").mkdir(parents=True)
        for k, sound in enumerate(sounds):
            soundfile.write(
                folder / name / "sound" / f"{k:04d}.{kind}",
                sound,
                data.sample_rate,
                subtype=FORMATS[kind],
            )


def input_pipeline(sizes: Sizes) -> Iterator[Case]:
    """(e), from files that the operating system holds in memory; clips of 44.1 kHz.

    The target for crops of long files is against reading them whole, as a data set of a few lines does; one that seeks is beside it.
    """
    clips, crop = sizes.batch * sizes.batches, min(1.0, sizes.seconds / 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sounds(folder, sizes)
        target = {"ogg": 1.0, "wav": 1.5, "flac": 1.0}
        for kind in FORMATS:
            data = data_config("folder", folder / kind, sizes.seconds)
            ours = our_pipeline(data, sizes)
            peers = {"torch DataLoader, soundfile": torch_pipeline(data, sizes, seek=False)}
            yield Case(
                f"batches of {sizes.seconds:g} s clips from {kind}",
                ours,
                peers,
                same_for(peers, target[kind]),
                clips,
            )
        data = data_config("folder", folder / "long", crop)
        peers = {
            f"torch DataLoader, soundfile, {how}": torch_pipeline(data, sizes, seek)
            for how, seek in (("reads whole files", False), ("seeks", True))
        }
        what = (
            f"batches of {crop:g} s crops of FLAC files of {sizes.long_parts * sizes.seconds:g} s"
        )
        yield Case(
            what, our_pipeline(data, sizes), peers, dict(zip(peers, (3.0,), strict=False)), clips
        )
        source = data_config("folder", folder / "ogg", sizes.seconds)
        prepare.prepare(sources.load(source), source, folder / "shards")
        # Longer, as a pipeline that was closed still decodes what it had begun.
        longer, clips = sizes._replace(batches=10 * sizes.batches), 10 * clips
        ours = our_pipeline(data_config("arrayrecord", folder / "shards", sizes.seconds), longer)
        peers = {"sacjax from ogg": our_pipeline(source, longer)}
        yield Case(
            f"batches of {sizes.seconds:g} s clips from ArrayRecord",
            ours,
            peers,
            same_for(peers, 10.0),
            clips,
        )


def front_end_share(sizes: Sizes) -> Iterator[Case]:
    """(f)"""
    ours = Ours(resnet_config(sizes), "supervised")
    peers: dict[str, Run] = {"the whole training step": ours.step}
    what = f"log-mel + SpecAugment in a ResNet-18 step, {shape_of(ours)}"
    yield Case(what, ours.features, peers, same_for(peers, 0.10), share=True)


FIRST_STEPS: dict[str, tuple[Callable[[Sizes], ConfigDict], str]] = {
    "ResNet-18": (resnet_config, "supervised"),
    "wav2vec 2.0 pretraining": (pretraining_config, "pretrain"),
}


def first_step_of(name: str, small: bool) -> None:
    """What a process of (g) does: one training step, as `sacjax.main` starts it; prints when it was done."""
    compilation.start()
    make, stage = FIRST_STEPS[name]
    Ours(make(SMALL if small else Sizes()), stage).step()
    print(time.time())


def first_step(sizes: Sizes) -> Iterator[Case]:
    """(g), with an empty compilation cache and with a filled one."""

    def run(name: str, cache: Path) -> float:
        command = [
            sys.executable,
            str(Path(__file__)),
            "--first-step",
            name,
            *["--small"] * (sizes == SMALL),
        ]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": paths}
        begin = time.time()
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return float(done.stdout.split()[-1]) - begin

    def cold(name: str) -> float:
        with tempfile.TemporaryDirectory() as cache:
            return run(name, Path(cache))

    with tempfile.TemporaryDirectory() as folder:
        for name in FIRST_STEPS:
            peers: dict[str, Run] = {"sacjax, cold": functools.partial(cold, name)}
            warm = functools.partial(run, name, Path(folder) / name.replace(" ", "_"))
            yield Case(f"from the command to the end of its first step, warm, {name}", warm, peers)


def resnet(sizes: Sizes) -> Iterator[Case]:
    """(h)"""
    torch, device = peer_torch()
    transformers = need("transformers", "parity")
    ours = Ours(resnet_config(sizes), "supervised")
    audio, labels = ours.peer_batch()
    features = torch_features(ours.stage)
    widths = [sizes.width << k for k in range(4)]
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=sizes.width, hidden_sizes=widths, depths=[2, 2, 2, 2], layer_type="basic",
        num_labels=CLASSES,
    )  # fmt: skip

    def make(prepare_model: Callable, layout: Any = torch.contiguous_format) -> Run:
        model = transformers.ResNetForImageClassification(config).to(device, memory_format=layout)
        run = prepare_model(model)

        def loss() -> Any:
            x = features(audio.to(device))[:, None].contiguous(memory_format=layout)
            return torch.nn.functional.cross_entropy(run(x).logits, labels.to(device))

        return torch_step(model, loss, ours.stage.optimizer.clip_norm)

    peers = peer_variants(make, "torch")
    peers["torch, channels last"] = make(lambda model: model, torch.channels_last)
    yield Case(
        f"ResNet-18 training step with SpecAugment, {shape_of(ours)}",
        ours.step,
        peers,
        same_for(peers, 1.0),
    )


PARTS: dict[str, Callable[[Sizes], Iterator[Case]]] = {
    "a": pretraining, "b": finetuning, "c": inference, "d": log_mel, "e": input_pipeline, "f": front_end_share,
    "g": first_step, "h": resnet,
}  # fmt: skip
OTHER_LIBRARIES = "abcdh"  # the parts whose peers compute by another library


def seconds_of(run: Run) -> float:
    """Returns how long a run takes, by its own clock where it has one."""
    begin = time.perf_counter()
    own = run()
    return time.perf_counter() - begin if own is None else own


def measure(part: str, case: Case, repeats: int) -> list[dict[str, Any]]:
    """Runs both sides once to warm up, then in turn; returns a row of the table for each peer."""
    runs = {"": case.ours} | case.peers
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds_of(run))
    ours = statistics.median(times[""])
    rows = []
    for name in case.peers:
        theirs = statistics.median(times[name])
        figure, target = ours / theirs if case.share else theirs / ours, case.targets.get(name)
        reached = None if target is None else figure <= target if case.share else figure >= target
        rows.append(
            dict(
                part=part,
                what=case.what,
                peer=name,
                ours_seconds=ours,
                peer_seconds=theirs,
                clips=case.clips or None,
                figure=figure,
                is_share=case.share,
                target=target,
                reached=reached,
                ours_all=times[""],
                peer_all=times[name],
            )  # fmt: skip
        )
    return rows


def serve_peers(part: str, small: bool, pipe: Any) -> None:
    """What the peers' process does: runs the one that it is told, case by case, and answers in seconds."""
    for case in PARTS[part](SMALL if small else Sizes()):
        while name := pipe.recv():
            pipe.send(seconds_of(case.peers[name]))


@contextlib.contextmanager
def peers_of(part: str, small: bool) -> Iterator[Callable[[Case], dict[str, Run]]]:
    """Yields what gives a case's peers, each case once and in their order.

    Those of OTHER_LIBRARIES run in a process of their own: how sacjax sets up its process is no help to them, nor the other way round.
    """
    if part not in OTHER_LIBRARIES:
        yield lambda case: case.peers
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_peers, args=(part, small, there), daemon=True)
    process.start()
    there.close()
    cases: list[Case] = []

    def ask(name: str) -> float:
        here.send(name)
        return here.recv()

    def peers(case: Case) -> dict[str, Run]:
        if cases:
            here.send("")
        cases.append(case)
        return {name: functools.partial(ask, name) for name in case.peers}

    try:
        yield peers
    finally:
        here.close()
        process.terminate()
        process.join()


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    packages = {}
    for name in ("jax", "jaxlib", "flax", "torch", "transformers", "librosa", "soundfile", "grain"):
        try:
            packages[name] = version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = [device.device_kind for device in jax.devices()]
    return dict(
        date=time.strftime("%Y-%m-%d"),
        cores=pipeline.cores(),
        devices=devices,
        processor=_processor(),
        packages=packages,
        load_before=os.getloadavg()[
            0
        ],  # far from 0, the figures are of a machine that did something else too
    )


def _processor() -> str:
    """Returns the processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def told(seconds: float, clips: int | None) -> str:
    """Returns a time, or the throughput that it is."""
    return f"{clips / seconds:.0f} clips/s" if clips else f"{seconds:.3g} s"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows in Markdown; the ratio is how many times faster ours is, or, where it says so, a share of time."""
    lines = [
        "| part | what | ours | peer | peer's figure | ratio | target | reached |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["is_share"]:
            ratio, target = (
                f"{100 * row['figure']:.1f} % of it",
                f"≤ {100 * (row['target'] or 0):.0f} %",
            )
        else:
            ratio, target = f"{row['figure']:.2f} ×", f"≥ {row['target'] or 0:g} ×"
        if row["target"] is None:
            target = ""
        reached = {True: "yes", False: "no", None: ""}[row["reached"]]
        cells = [row["part"], row["what"], told(row["ours_seconds"], row["clips"]), row["peer"]]
        cells += [told(row["peer_seconds"], row["clips"]), ratio, target, reached]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures what is asked for, writes the JSON after each figure, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="which parts"
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds; medians are over them")
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, to see that it works: figures mean nothing",
    )
    parser.add_argument("--first-step", choices=list(FIRST_STEPS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise UserError(f"--repeats is {args.repeats}: it must be at least 1")
    # torch has to find room on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    if args.first_step:
        first_step_of(args.first_step, args.small)
        return 0
    args.output.parent.mkdir(parents=True, exist_ok=True)
    compilation.start()
    about, rows = machine(), []
    for part in args.only:
        with peers_of(part, args.small) as peers:
            for case in PARTS[part](SMALL if args.small else Sizes()):
                print(f"({part}) {case.what} …", file=sys.stderr)
                rows += measure(part, case._replace(peers=peers(case)), args.repeats)
                result = dict(machine=about, small=args.small, repeats=args.repeats, rows=rows)
                args.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))
    print(
        "\nMedians. × faster: the peer's time over ours, or our clips a second over the peer's; a share: our time over the peer's."
    )
    return 0


if __name__ == "__main__":
    errors.run(main)
