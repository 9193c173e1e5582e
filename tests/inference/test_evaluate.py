"""`--mode=eval`: its own parts, other data, ensembles, and whatever devices are here."""

import csv
import json
import shutil

import numpy as np
import pytest
from processes import run_python

from sacjax.commands import train
from sacjax.errors import UserError
from sacjax.inference import evaluate


def run(workdirs, output, *more):
    workdirs = workdirs if isinstance(workdirs, list) else [workdirs]
    flags = [word for workdir in workdirs for word in ("--workdir", str(workdir))]
    return train.main(["--mode=eval", *flags, "--output", str(output), *more])


def scores(output):
    return json.loads((output / "scores.json").read_text())


@pytest.fixture(scope="module")
def results(trained):
    return json.loads((trained.workdir / "results.json").read_text())["supervised"]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_its_own_parts_get_the_scores_of_its_results(trained, results, tmp_path, part):
    run(trained.workdir, tmp_path, "--split", part)
    found = scores(tmp_path)
    assert found == pytest.approx({k: v for k, v in results.items() if k.startswith(part)})
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    kept = list(csv.DictReader((trained.workdir / "predictions.csv").open()))
    assert rows == [row for row in kept if row["split"] == part]


def test_another_data_set_with_an_ensemble(trained, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(trained.sounds, other)
    for k in range(3):
        (other / "high" / f"high0{k}.wav").unlink()
    path = f"--config.supervised.data.path={other}"
    run([trained.workdir, trained.workdir], tmp_path / "all", "--split", "all", path)
    assert len((tmp_path / "all" / "predictions.csv").read_text().splitlines()) == 1 + 21
    assert "all/accuracy" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "all" / "predictions.csv").open()))
    screen = '--config.supervised.eval.evaluators=({"name": "screening", "positive": "%s"},)'
    run([trained.workdir] * 2, tmp_path / "all", "--split", "all", path, screen % "high")
    of_high = [float(row["high"]) >= 0.5 for row in rows if row["label"] == "high"]
    assert scores(tmp_path / "all")["all/sensitivity"] == np.mean(of_high)
    assert scores(tmp_path / "all")["all/screened_positive"] == len(of_high) == 9
    with pytest.raises(UserError, match="positive is 'ill', but the labels are"):
        run(trained.workdir, tmp_path / "x", screen % "ill")
    (other / "low").rename(other / "unheard_of")
    with pytest.raises(UserError, match="labels that the model does not know: unheard_of"):
        run(trained.workdir, tmp_path / "x", "--split", "all", path)


@pytest.mark.parametrize(
    ("override", "key"),
    [("data.sample_rate=4000", "data.sample_rate"), ("frontend.n_mels=20", "frontend")],
)
def test_what_a_checkpoint_was_trained_by_stays(trained, tmp_path, override, key):
    """Else a model of 8 kHz would hear what is said to be 4 kHz an octave too high."""
    with pytest.raises(UserError, match=f"trained by its own config.supervised.{key}, and"):
        run(trained.workdir, tmp_path / "x", f"--config.supervised.{override}")
    assert not (tmp_path / "x").exists()


def test_mistakes_of_the_user(trained, networks, tmp_path):
    with pytest.raises(UserError, match="--split is 'tset'"):
        run(trained.workdir, tmp_path / "x", "--split", "tset")
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"--output {tmp_path}/file/x.*: cannot be written"):
        run(trained.workdir, tmp_path / "file" / "x")
    with pytest.raises(UserError, match="trained without labels and cannot give any"):
        run(networks["wav2vec2"], tmp_path / "y")
    with pytest.raises(UserError, match="its labels differ from those of"):
        run([trained.workdir, networks["small_cnn"]], tmp_path / "y")
    other = tmp_path / "other"
    shutil.copytree(trained.workdir, other)
    config = json.loads((other / "config.json").read_text())
    config["supervised"]["data"]["split_seed"] = 1
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="its test part differs from that of .* the same clips"):
        run([trained.workdir, other], tmp_path / "y")
    assert not (tmp_path / "y").exists()
    with pytest.raises(UserError, match="not a workdir"):
        run(tmp_path / "nowhere", tmp_path / "y")


def test_it_says_that_nothing_has_a_label(trained, tmp_path, capsys):
    shutil.copytree(trained.sounds / "low", tmp_path / "flat")
    path = f"--config.supervised.data.path={tmp_path / 'flat'}"
    run(trained.workdir, tmp_path / "out", "--split", "all", path)
    assert "no clip of the all part has a label" in capsys.readouterr().out
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + 12


def test_a_run_of_another_mesh_is_evaluated_on_the_devices_here(trained, results, tmp_path):
    """Finding 20. The copy says that it was trained on eight devices; here is one."""
    copy = tmp_path / "copy"
    shutil.copytree(trained.workdir, copy)
    config = json.loads((copy / "config.json").read_text())
    config["mesh"] = {"data": 4, "fsdp": 2, "tensor": 1}
    (copy / "config.json").write_text(json.dumps(config))
    run(copy, tmp_path / "out")
    assert scores(tmp_path / "out")["test/loss"] == pytest.approx(results["test/loss"])
    with pytest.raises(UserError, match="config.mesh .* does not fit 1 devices"):
        run(copy, tmp_path / "x", "--config.mesh.data=3")
    assert not (tmp_path / "x").exists()


EIGHT = """
import json, sys
from sacjax.commands import train
from sacjax.errors import UserError

def said(argv):
    try:
        return train.main(argv)
    except UserError as error:
        return str(error)

training, evaluation = json.loads(sys.argv[1])
small = "--config.supervised.{}.batch_size=12".format
answers = [
    said([*training, small("train")]),
    said([*training, small("eval")]),
    said([*evaluation, small("eval")]),
    said(evaluation),
    said([*evaluation, "--config.mesh.fsdp=8"]),
]
print(json.dumps(answers))
"""


def test_eight_devices_share_batches_that_divide(trained, results, tmp_path):
    """Finding 20: a batch that does not divide is told first, in training and in evaluation."""
    config = ["--config", "configs/folder.py", *trained.overrides]
    training = [*config, "--workdir", str(tmp_path / "run")]
    evaluation = ["--mode=eval", "--workdir", str(trained.workdir)]
    evaluation += ["--output", str(tmp_path / "out")]
    done = run_python("-c", EIGHT, json.dumps([training, evaluation]), devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    *told, replicated, sharded = json.loads(done.stdout.splitlines()[-1])
    keys = ("supervised.train.batch_size", *["supervised.eval.batch_size"] * 2)
    for message, key in zip(told, keys, strict=True):
        assert message.startswith(f"config.{key} is 12: it must divide by the 8 devices")
    assert not (tmp_path / "run").exists() and (replicated, sharded) == (0, 0)
    assert scores(tmp_path / "out")["test/loss"] == pytest.approx(results["test/loss"], rel=1e-4)


def test_a_batch_is_checked_before_a_checkpoint_is_read(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.sharding, "make_mesh", lambda _: "a mesh of devices")

    def refuse(name, size, mesh):
        raise UserError(f"{name}={size} on {mesh}")

    monkeypatch.setattr(evaluate.sharding, "check_batch", refuse)
    monkeypatch.setattr(evaluate, "load_trained", lambda *_: pytest.fail("a checkpoint is read"))
    with pytest.raises(UserError, match="supervised.eval.batch_size=6 on a mesh of devices"):
        run(trained.workdir, tmp_path / "out", "--config.supervised.eval.batch_size=6")
