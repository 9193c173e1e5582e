"""What every objective must do: learn without labels, resume to the bit, not care for devices.

Run as a script (`test_family.py out.json NAME…`, with 8 devices) it writes the losses of `STEPS`
updates on eight devices.
"""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from conftest import shared_folder
from family import FAMILY, config_of
from flax import nnx
from quick_stages import share_trainers, shared_trainer

from sacjax import evaluators, inference, objectives, stages
from sacjax.data import sources
from sacjax.objectives import OBJECTIVES
from sacjax.train import sharding
from sacjax.train.trainer import make_trainer

STEPS = 3
SUPERVISED = {"classification", "distillation", "oversampled"}


def test_every_objective_without_labels_is_here():
    assert set(FAMILY) == set(OBJECTIVES) - SUPERVISED


@pytest.fixture(params=FAMILY)
def name(request):
    return request.param


def whole_run(name):
    """Returns the config of a run that evaluates by neighbours, saved shortly before its end."""
    config = config_of(name)
    steps = FAMILY[name].steps
    config.checkpoint.update(every=steps * 5 // 6, keep=3)
    s = config.pretrain
    s.data.update(examples=1200, holdout=(0.4, 0.1, 0.5))  # 600 test clips: k-NN to 2 points
    s.train.update(steps=steps, log_every=steps // 2)
    s.eval.update(splits=("test",), evaluators=(dict(name="objective"), dict(name="knn")))
    return config


def log_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("time/")}
        for line in lines
    ]


def test_it_learns_and_a_run_that_goes_on_ends_as_one_never_stopped(name, tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    config, workdir, again = whole_run(name), tmp_path / "run", tmp_path / "again"
    trained = stages.run(config, workdir)["pretrain"]
    log = log_of(workdir)
    assert np.isfinite(trained["test/loss"])

    shutil.copytree(workdir, again)
    shutil.rmtree(again / "checkpoints" / "pretrain" / str(FAMILY[name].steps))
    (again / "results.json").unlink()
    stages.run(config, again)
    assert log_of(again) == log
    both = (inference.load_trained(path).module for path in (workdir, again))
    for a, b in zip(*(jax.tree.leaves(nnx.state(module)) for module in both), strict=True):
        np.testing.assert_array_equal(a, b)

    mesh = sharding.make_mesh(config.mesh)
    stage = stages.Stage.prepare("pretrain", config, mesh, tmp_path / "untrained", {})
    state = stage.trainer.init(*stage.start())
    untrained = evaluators.judge(stage.evaluators, stage.judged(state), "test", final=True).values
    assert trained["test/knn_accuracy"] > untrained["test/knn_accuracy"]
    assert trained["test/loss"] < untrained["test/loss"]


def random_batch(stage, seed):
    """Returns a batch of noise whose first clips are louder and shorter."""
    rng, size = np.random.default_rng(seed), stage.train.batch_size
    samples = round(stage.data.seconds * stage.data.sample_rate)
    level = np.linspace(6000, 600, size)[:, None]
    rows = np.arange(size, dtype=np.int32)
    return dict(
        audio=(level * rng.standard_normal([size, samples])).clip(-32768, 32767).astype(np.int16),
        length=np.linspace(samples // 2, samples, size).astype(np.int32),
        label=rows * 0 - 1,
        index=rows,
        mask=np.ones(size, np.float32),
    )


def begin(name, make, devices, dtype="float32"):
    """Returns (stage, mesh of `devices`, trainer, state) as `whole_run` begins with them."""
    config = whole_run(name)
    stage, mesh = config.pretrain, sharding.make_mesh(config.mesh, jax.devices()[:devices])
    stage.model.dtype = dtype
    objective = objectives.build(stage, sources.load(stage.data).class_names)
    trainer = make(objective, stage, mesh, FAMILY[name].steps, config.seed)
    artifacts = objective.prepare(lambda: (random_batch(stage, k) for k in range(10**6)))
    return stage, mesh, trainer, trainer.init(None, artifacts)


def losses(name, make, devices):
    """Returns the losses of the first updates."""
    stage, mesh, trainer, state = begin(name, make, devices)
    found = []
    for step in range(STEPS):
        batch = sharding.put_batch(random_batch(stage, step), mesh)
        state = trainer.step(state, batch)
        total, count = state.sums["loss"]
        found.append(float(total) / max(float(count), 1))
    return found


@pytest.fixture(scope="session")
def on_eight_devices(tmp_path_factory):
    """Returns {objective: losses on eight devices}, of one process for all of them."""
    from processes import run_python

    with shared_folder(tmp_path_factory, "eight") as (root, new):
        if new:
            root.mkdir()
            done = run_python(__file__, root / "out.json", *FAMILY, devices=8, path="tests")
            assert done.returncode == 0, done.stderr
        return json.loads((root / "out.json").read_text())


def test_the_same_losses_on_1_and_8_devices(name, on_eight_devices):
    one = losses(name, shared_trainer, 1)
    tolerance = FAMILY[name].tolerance
    np.testing.assert_allclose(on_eight_devices[name], one, rtol=tolerance)


def test_bfloat16_gives_a_finite_loss(name):
    stage, mesh, trainer, state = begin(name, shared_trainer, 1, "bfloat16")
    batch = sharding.put_batch(random_batch(stage, 0), mesh)
    total, count = trainer.evaluate(state, batch)["loss"]
    assert np.isfinite(float(total / count))


if __name__ == "__main__":
    assert jax.device_count() == 8
    made = {name: losses(name, make_trainer, 8) for name in sys.argv[2:]}
    with open(sys.argv[1], "w") as file:
        json.dump(made, file)
