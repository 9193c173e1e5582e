"""`eval.temperature=True`: fitted on validation, and used wherever probabilities are told."""

import json

import numpy as np
import pytest
from quick_stages import share_trainers
from scipy.special import log_softmax

from sacjax import config as config_lib
from sacjax import inference, stages
from sacjax.errors import UserError
from sacjax.evaluators.predictions import read_predictions
from sacjax.inference.evaluate import evaluate_workdirs
from sacjax.inference.export import function_of


def config_of(**evaluation):
    c = config_lib.default()
    s = c.supervised
    c.tensorboard = False
    s.data.update(source="synthetic", examples=100, sample_rate=8000, seconds=0.25)
    s.frontend.update(n_fft=256, hop_length=128, n_mels=16)
    s.model.name = "small_cnn"
    with s.model.unlocked():
        s.model.encoder = dict(channels=(4, 4), hidden=8)
    s.train.update(batch_size=8, steps=1)
    s.eval.update(batch_size=16, **evaluation)
    return c


def test_one_line_calibrates_results_predictions_and_exports(tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    plain = stages.run(config_of(), tmp_path / "plain")["supervised"]
    config = config_of(temperature=True, analysis=True)
    scaled = stages.run(config, tmp_path / "scaled")["supervised"]
    temperature = scaled["validation/temperature"]
    assert temperature != 1 and "validation/temperature" not in plain
    assert scaled["validation/accuracy"] == plain["validation/accuracy"]
    assert scaled["validation/loss"] < plain["validation/loss"]
    # The same logits, divided.
    rows, names = read_predictions(tmp_path / "plain" / "predictions.csv")
    want = log_softmax(np.log([row["probabilities"] for row in rows]) / temperature, -1)
    rows, _ = read_predictions(tmp_path / "scaled" / "predictions.csv")
    told = np.log([row["probabilities"] for row in rows])
    np.testing.assert_allclose(told, want, atol=1e-4)
    loss = -np.mean([
        p[names.index(row["label"])]
        for row, p in zip(rows, want, strict=True)
        if row["split"] == "validation"
    ])  # fmt: skip
    assert scaled["validation/loss"] == pytest.approx(loss, abs=1e-4)
    sound = np.float32(0.1 * np.random.default_rng(0).standard_normal(2000))
    models = [inference.load(tmp_path / name) for name in ("plain", "scaled")]
    one, other = (np.log(model.predict(sound).probabilities) for model in models)
    np.testing.assert_allclose(other, log_softmax(one / temperature, -1), atol=1e-4)
    exported = function_of(models[1])(sound[None], np.array([2000], np.int32))
    np.testing.assert_allclose(np.log(exported), other, atol=1e-4)
    # An evaluation of its own says the same; one that asks for it fits what training did not.
    again = evaluate_workdirs([str(tmp_path / "scaled")], [], "test")
    assert again["test/loss"] == pytest.approx(scaled["test/loss"], abs=1e-5)
    flags = ["--config.supervised.eval.temperature=True"]
    later = evaluate_workdirs([str(tmp_path / "plain")], flags, "test")
    assert later["test/loss"] == pytest.approx(scaled["test/loss"], abs=1e-4)


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    config = config_of(temperature=True)
    config.supervised.data.update(holdout=(0.8, 0.0, 0.2), validation_fraction=0.0)
    with pytest.raises(UserError, match="eval.temperature needs a validation part"):
        stages.run(config, tmp_path / "run")
    config = config_of(temperature=True)
    config.supervised.objective.name = "simclr"
    config.supervised.eval.best = "validation/loss"
    with pytest.raises(UserError, match="eval.temperature is True, but simclr gives no prob"):
        stages.run(config, tmp_path / "run")
    workdir = tmp_path / "made"
    from workdirs import write_workdir

    write_workdir(workdir, "small_cnn")
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    assert saved["supervised"]["eval"]["temperature"] is False
    saved["supervised"]["data"] |= dict(holdout=[0.8, 0.0, 0.2], validation_fraction=0.0)
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="eval.temperature=True needs labelled clips"):
        evaluate_workdirs([str(workdir)], ["--config.supervised.eval.temperature=True"], "test")


def test_the_best_and_the_last_checkpoint_have_a_temperature_each(tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    evaluation = dict(best="validation/loss", best_mode="max", checkpoint="best")  # step 20
    for name, temperature in (("plain", False), ("scaled", True)):
        config = config_of(temperature=temperature, **evaluation)
        config.supervised.data.examples = 400
        config.supervised.optimizer.update(learning_rate=2e-2, warmup_fraction=0.0)
        config.supervised.train.update(steps=40, evaluate_every=20)
        stages.run(config, tmp_path / name)
    flags, temperatures = ["--config.supervised.eval.temperature=True"], set()
    for which in ("best", "last"):
        # What training did not fit, the evaluation fits for the checkpoint that it loads.
        want = evaluate_workdirs([str(tmp_path / "plain")], flags, "test", which)["test/loss"]
        found = evaluate_workdirs([str(tmp_path / "scaled")], [], "test", which)["test/loss"]
        assert found == pytest.approx(want, abs=1e-5)
        temperatures.add(inference.load(tmp_path / "scaled", which).objective.temperature)
    assert len(temperatures) == 2 and 1 not in temperatures
