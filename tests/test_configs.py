"""Every config in the tree loads and gives its command; the published recipes compile."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf
from quick_stages import share_trainers

from sacjax import config as config_lib
from sacjax import init_from, objectives, stages
from sacjax.layers.platform import compiled_for
from sacjax.train import sharding, step
from sacjax.train.trainer import batch_shapes, make_trainer

ROOT = Path(__file__).parents[1]
ARGUMENTS = {
    "configs/apc/synthetic.py": ("encoder=causal_transformer,codes=8",),
    "configs/autoencoder/synthetic.py": ("encoder=dense", "encoder=small_cnn,denoise"),
    "configs/byol_a/synthetic.py": ("encoder=wav2vec2,shots=5",),
    "configs/esc50/resnet.py": ("esc10", "esc10,fold=3,no_specaugment,no_mixup", "frontend=leaf"),
    "configs/esc50/audionet.py": ("esc10", "esc10,article", "esc10,no_mixup"),
    "configs/esc50/wav2vec2.py": ("fold=2", "scratch", "pretrain_only"),
    "configs/fsdd/resnet.py": ("loso,fold=2",),
    "configs/fsdd/wav2vec2.py": ("fold=2", "scratch", "pretrain_only"),
    "configs/pretrain_folder.py": (
        "method=eat,size=small",
        "method=wav2vec2,size=small,stages=pretrain",
        "rate=8000,seconds=1.0,encoder=gru,stages=scratch",
    ),
    "configs/imagenet/finetune.py": tuple(
        f"encoder={name}" for name in ("vgg11", "convnext_tiny", "efficientnet_b0", "inception_v3")
    ),
    "configs/inversion/synthetic.py": ("spectrogram",),
    "configs/masked_prediction/synthetic.py": ("method=mockingjay",),
    "configs/wav2vec2/base_pretrain.py": ("small_batch",),
}
SPECS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("configs/**/*.py"))]
SPECS += [f"{path}:{arg}" for path, args in ARGUMENTS.items() for arg in args]


@pytest.mark.parametrize("spec", SPECS)
def test_loads_and_is_documented(spec, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = config_lib.load(spec)
    text = config_lib.to_json(config)
    assert config.stages and config_lib.to_json(config_lib.from_json(text)) == text
    path = spec.partition(":")[0]
    told = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    assert re.search(rf"(sacjax train|python -m sacjax\.main) --config {path}", told)


@pytest.mark.parametrize(
    "name, millions",
    [("base", 95.05), ("large", 317.39)],  # transformers' Wav2Vec2ForPreTraining of these sizes
)
def test_published_pretraining_compiles_and_needs_the_memory_that_adam_needs(
    name, millions, monkeypatch
):
    monkeypatch.chdir(ROOT)
    config = config_lib.load(
        f"configs/wav2vec2/{name}_pretrain.py", ["--config.pretrain.train.batch_size=2"]
    )
    stage = config.pretrain
    # A reduced batch: the parameters and the program's shape are what is looked at.
    stage.data.seconds = 1.0
    objective = objectives.build(stage)
    trainer = make_trainer(objective, stage, sharding.make_mesh(config.mesh), 100, 0)
    state = trainer.state_shapes
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert count / 1e6 == pytest.approx(millions, abs=0.02)
    compiled = trainer.step.lower(state, batch_shapes(stage, 2, 0)).compile(
        {"xla_backend_optimization_level": "0"}
    )
    memory = compiled.memory_analysis()
    # Parameters and Adam's two moments, float32; given and given back in the same place.
    assert memory.argument_size_in_bytes == pytest.approx(3 * 4 * count, rel=0.01)
    assert memory.alias_size_in_bytes == pytest.approx(3 * 4 * count, rel=0.01)


RESNET_18 = 11.170  # torchvision's of one channel, without its head
VIT_B = 85.254  # twelve layers of 7.088, 16 × 16 patches of one channel, class token and norm
PODS = {  # millions of parameters: of a part, or of all ("")
    "apc": ("", 4.1),  # Chung et al. 2019, three GRUs of 512
    "autoencoder": ("", 451.0),  # the article's six layers there and back
    "best_rq": ("encoder", 94.37),  # transformers' Wav2Vec2Model, base
    "byol_a": ("encoder", 6.333),  # "6.3 M" (Niizumi et al. 2023): the authors' AudioNTT2022
    "cola": ("encoder", RESNET_18),
    "data2vec": ("encoder", 93.16),  # transformers' Data2VecAudioModel, base
    "eat": ("encoder", VIT_B),
    "hubert": ("encoder", 94.37),  # transformers' HubertModel, base
    "inversion": ("", 13.5),  # Siuzdak 2023
    "masked_autoencoder": ("", 111.0),  # MAE's 111.9 of ViT-B, less two channels and positions
    "masked_prediction": ("encoder", 21.3),  # s3prl's TERA base
    "simclr": ("encoder", RESNET_18),
}


@pytest.mark.parametrize("name", [path.parent.name for path in ROOT.glob("configs/*/pretrain.py")])
def test_a_pods_step_is_traced_for_eight_chips_and_has_the_published_size(name, monkeypatch):
    """Every stage of it, whole, as for TPUs; what compiles for them is told in docs/pods.md."""
    monkeypatch.chdir(ROOT)
    config = init_from.resolve(config_lib.load(f"configs/{name}/pretrain.py"))
    mesh = jax.sharding.AbstractMesh((8, 1, 1), tuple(config.mesh))
    for stage in (config[stage] for stage in config.stages):
        sharding.check_training_batch(name, stage, mesh)
        with compiled_for("tpu"):
            trainer = make_trainer(objectives.build(stage), stage, mesh, 100, 0)
            state, batch = trainer.state_shapes, batch_shapes(stage, stage.train.batch_size, 0)
            after = jax.eval_shape(trainer.step, state, batch)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        part, millions = PODS[name]
        counted = state.params[part] if part else state.params
        count = sum(leaf.size for leaf in jax.tree.leaves(counted)) / 1e6
        assert count == pytest.approx(millions, rel=3e-3)


def test_own_recordings_pretrain_and_fine_tune(folder_of_sounds, tmp_path, monkeypatch):
    """Unlabelled files of any length lie in a folder and in a sub-folder, which is no label."""
    monkeypatch.chdir(ROOT)
    share_trainers(monkeypatch)
    rng, unlabelled = np.random.default_rng(0), tmp_path / "unlabelled"
    (unlabelled / "more").mkdir(parents=True)
    for k in range(20):
        name = unlabelled / ("more" if k == 0 else "") / f"{k}.wav"
        sf.write(name, 0.1 * rng.standard_normal(rng.integers(1000, 20000)), 8000)
    overrides = [
        f"--config.pretrain.data.path={unlabelled}",
        f"--config.finetune.data.path={folder_of_sounds}",
    ]
    overrides += [
        f"--config.{stage}.train.{key}"
        for stage in ("pretrain", "finetune")
        for key in ("batch_size=4", "steps=2")
    ]
    fewer = dict(conv_channels=(32,) * 3, conv_kernels=(20, 8, 4), conv_strides=(10, 8, 4))
    overrides += [  # compiles sooner
        f"--config.{stage}.model.encoder.{key}={value}"
        for stage in ("pretrain", "finetune")
        for key, value in fewer.items()
    ]
    config = config_lib.load(
        "configs/pretrain_folder.py:method=wav2vec2,rate=8000,seconds=0.5,size=tiny,"
        "stages=pretrain+finetune",
        overrides,
    )
    results = stages.run(config, tmp_path / "run")
    assert (
        "test/accuracy" in results["finetune"]
        and "test/contrastive_accuracy" in results["pretrain"]
    )
    assert "test/knn_accuracy" not in results["pretrain"]  # nothing to tell apart


def test_the_small_batch_recipe_runs_the_published_course_over_masked_frames(monkeypatch):
    """32 updates of 16 clips have as many masked frames as one published update: one step."""
    monkeypatch.chdir(ROOT)
    config = config_lib.load("configs/wav2vec2/base_pretrain.py:small_batch")
    count, frames = config.pretrain.optimizer.schedule_count, 549
    masked = 16 * 0.49 * frames * 32
    progress = step.advance(np.zeros(2, np.int32), np.float32(masked), count)
    assert float(step.schedule_progress(32, progress, count)) == pytest.approx(1.0, rel=0.02)
