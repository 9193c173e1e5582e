"""Our side of a case: a stage of a config with a batch of noise.

Both sides do the same work: the same batch, network and dropout rates, float32 (TF32 products on a
GPU, JAX's default, on both sides), gradients, clipping and AdamW included. Layer drop is off, as
transformers skips a dropped layer and sacjax does not.
"""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from launch.benchmarks.speed_cases.case import CLASSES, ROOT, Sizes
from launch.benchmarks.speed_cases.peers import need, peer_torch
from sacjax import config as config_lib
from sacjax import objectives
from sacjax.convert.huggingface import huggingface_config
from sacjax.train import sharding
from sacjax.train.state import TrainState
from sacjax.train.trainer import Trainer, batch_shapes, make_trainer
from sacjax.views import make_views


class Ours:
    """A stage of a config with a batch of noise: its train step, prediction and preprocessing."""

    def __init__(self, config: ConfigDict, name: str):
        self.stage, self.mesh = config[name], sharding.make_mesh(config.mesh)
        self.objective = objectives.build(
            self.stage, tuple(map(str, range(CLASSES))), np.ones(CLASSES)
        )
        self.batch = noise(self.stage, self.objective.num_classes)
        self.views = jax.jit(make_views(self.stage, self.objective.num_classes))

    @functools.cached_property
    def trainer(self) -> Trainer:
        """The compiled functions; made when asked for, as one part needs preprocessing alone."""
        return make_trainer(self.objective, self.stage, self.mesh, 10_000, seed=0)

    @functools.cached_property
    def state(self) -> TrainState:
        """Parameters and all else that a step changes."""
        return self.trainer.init()

    def step(self) -> None:
        """One update, from a batch in host memory."""
        self.state = self.trainer.step(self.state, sharding.put_batch(self.batch, self.mesh))
        jax.block_until_ready(self.state)

    def predict(self) -> None:
        """Logits of the batch."""
        jax.block_until_ready(
            self.trainer.predict(self.state, sharding.put_batch(self.batch, self.mesh))
        )

    def features(self) -> None:
        """What a train step does before the network: front end and augmentation."""
        jax.block_until_ready(
            self.views(sharding.put_batch(self.batch, self.mesh), jax.random.key(0))
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
    shapes = batch_shapes(stage, stage.train.batch_size, classes)
    size, samples = shapes["audio"].shape
    audio = np.random.default_rng(0).normal(0, 3000, (size, samples)).astype(np.int16)
    rows = np.arange(size, dtype=np.int32)
    length = np.full(size, samples, np.int32)
    return dict(
        audio=audio, length=length, index=rows, label=rows % CLASSES, mask=np.ones(size, np.float32)
    )


def load(spec: str, stage: str, **changes: Any) -> ConfigDict:
    """Returns a config of `configs/` with values of a stage changed; __ stands for a dot."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.load(
        str(ROOT / "configs" / spec), [f"--config.{stage}.{k}={v}" for k, v in values.items()]
    )


def pretraining_config(sizes: Sizes) -> ConfigDict:
    """wav2vec 2.0 base on a batch that two cores take."""
    return load(
        "wav2vec2/base_pretrain.py",
        "pretrain",
        train__batch_size=sizes.clips,
        data__seconds=sizes.seconds,
        model__dtype="float32",
        model__encoder__size=sizes.encoder,
        model__encoder__layer_drop=0.0,
    )


def finetuning_config(sizes: Sizes, clips: int) -> ConfigDict:
    """The same encoder with a classifier.

    Its convolutions are frozen, its Transformer learns from the first step on.
    """
    return load(
        "wav2vec2/finetune.py",
        "finetune",
        train__batch_size=clips,
        data__seconds=sizes.seconds,
        model__encoder__size=sizes.encoder,
        model__encoder__layer_drop=0.0,
        optimizer__freeze=(("encoder/conv", 0),),
    )


def resnet_config(sizes: Sizes, **changes: Any) -> ConfigDict:
    """A ResNet-18 of full width on ESC-50's log-mel spectrograms, with SpecAugment alone."""
    values: dict[str, Any] = dict(
        train__batch_size=sizes.resnet_clips,
        data__seconds=sizes.seconds,
        model__encoder__width=sizes.width,
        model__pooling="mean",
        augment__waveform=(),
    )
    return load("esc50/resnet.py:no_mixup", "supervised", **values | changes)


def shape_of(ours: Ours) -> str:
    """Returns a batch in words."""
    return f"{ours.stage.train.batch_size} × {ours.stage.data.seconds:g} s"
