"""`sacjax probe` on workdirs of random networks, against the probes of their vectors."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import soundfile as sf

from sacjax import inference
from sacjax.commands import probe
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference.embedder import embed_recordings


@pytest.fixture(scope="module")
def workdir(networks):
    return networks["small_cnn"]


def run(capsys, *args):
    assert probe.main(list(map(str, args))) == 0
    return capsys.readouterr()


def test_command_on_the_workdirs_own_data(workdir, tmp_path, capsys):
    flags = ["--random", "--shots", 1, 2, "--draws", 2, "--neighbours", 3]
    output = tmp_path / "deep" / "probe.json"
    out, _ = run(capsys, "--checkpoint", workdir, *flags, "--output", output)
    got = json.loads((tmp_path / "deep" / "probe.json").read_text())
    assert got["about"] | {"train_clips": 40, "test_clips": 20, "classes": 20} == got["about"]
    embedder = inference.load(workdir).embedder()
    data = embedder.stage.data
    recordings = sources.load(data)
    parts, labels = splits.split(recordings, data), splits.first_labels(recordings)
    probed = np.concatenate([parts["train"], parts["test"]])
    vectors, seen = embed_recordings(embedder, recordings, probed, {})
    assert len(seen) == 60 and seen.all()
    train, test = vectors[:40], vectors[40:]
    four = [train, labels[parts["train"]], test, labels[parts["test"]]]
    assert got["trained"]["knn_accuracy"] == probes.knn(*four, 3)
    assert got["trained"]["linear_accuracy"] == probes.linear(*four, 0)
    want = probes.few_shot(*four, (1, 2), 2, 0)
    assert got["trained"]["few_shot_accuracy"] == {"1": want[1], "2": want[2]}
    assert got["random"]["few_shot_accuracy"] != got["trained"]["few_shot_accuracy"]
    head, *lines = out.splitlines()[-6:]
    assert head.split()[-2:] == ["trained", "random"]
    assert [line.split("  ")[0] for line in lines] == [
        "3 nearest neighbours",
        "linear probe",
        "linear probe, mean of classes",
        "1 labels a class",
        "2 labels a class",
    ]
    assert f"{100 * got['trained']['knn_accuracy']:.1f}" in lines[0]
    assert f"{100 * np.mean(want[2]):.1f} ± {100 * np.std(want[2]):.1f}" in lines[4]


def test_command_on_another_data_set(workdir, folder_of_sounds, tmp_path, capsys):
    """Low and high tones, which even a random network tells apart.

    Some have no label, one is broken.
    """
    time = np.arange(4000) / 8000
    for k in range(4):
        sf.write(
            folder_of_sounds / f"unlabelled{k}.wav", 0.3 * np.sin(2 * np.pi * 700 * time), 8000
        )
    (folder_of_sounds / "low" / "low99.wav").write_text("this is no sound")
    stage = "--config.supervised.data"
    data = [f"{stage}.path={folder_of_sounds}", f"{stage}.holdout=(0.5,0.0,0.5)"]
    flags = ["--config", "configs/folder.py", *data, "--shots", 5]
    _, err = run(capsys, "--checkpoint", workdir, *flags, "--output", tmp_path / "p.json")
    got = json.loads((tmp_path / "p.json").read_text())
    assert (
        got["about"]["train_clips"] + got["about"]["test_clips"] == 24
        and got["about"]["classes"] == 2
    )
    assert "skipped low/low99.wav" in err
    assert got["trained"]["linear_accuracy"] > 0.8 and got["trained"]["knn_accuracy"] > 0.8


def folder(root, labels):
    for label in labels:
        (root / label).mkdir(parents=True, exist_ok=True)
        for k in range(4):
            sf.write(
                root / label / f"{k}.wav",
                0.1 * np.random.default_rng(k).standard_normal(4000),
                8000,
            )
    return root


@pytest.mark.parametrize(
    ("labels", "overrides", "message"),
    [
        ([""], [], "none of the 4 clips of data.source=folder has a label"),
        (["a"], [], "training part has 1 class"),
        (["a", "b"], ["data.holdout=(0.8,0.2,0.0)"], "test part has no labelled clip"),
        (
            ["a", "b"],
            ["data.multi_label=True", "objective.options.loss=sigmoid"],
            "clips of one label each",
        ),
        (["a", "b"], ["data.pth=x"], "did you mean 'path'"),
    ],
)
def test_data_that_cannot_be_probed(workdir, tmp_path, labels, overrides, message):
    root = folder(tmp_path / "sounds", labels)
    overrides = [f"--config.supervised.{text}" for text in [f"data.path={root}", *overrides]]
    with pytest.raises(UserError, match=message):
        probe.main(["--checkpoint", str(workdir), "--config", "configs/folder.py", *overrides])


def test_mistakes_of_the_user(workdir, tmp_path):
    start = ["--checkpoint", str(workdir)]
    with pytest.raises(UserError, match="--stage is 'finetune'; known: supervised"):
        probe.main([*start, "--stage", "finetune"])
    with pytest.raises(UserError, match="unknown argument '--shot_s=3'"):
        probe.main([*start, "--shot_s=3"])
    with pytest.raises(UserError, match="must be 1 or more"):
        probe.main([*start, "--shots", "0"])
    with pytest.raises(UserError, match="--seed is -1: it must be from 0"):
        probe.main([*start, "--seed", "-1"])
    with pytest.raises(UserError, match="no hidden states"):
        probe.main([*start, "--layer", "1"])
    with pytest.raises(UserError, match=r"--checkpoint .* is given twice"):
        probe.main([*start, f"{workdir}/../{workdir.name}"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        probe.write(tmp_path / "file" / "p.json", {})
    for flag in ("--output", "--report"):  # before anything is read
        with pytest.raises(UserError, match=f"{flag} .*cannot be written"):
            probe.main(["--checkpoint", "/nowhere", flag, str(tmp_path / "file" / "p.html")])
    assert probe.page_path(f"{tmp_path}/a.html").name == "a.html"
    assert probe.page_path(f"{tmp_path}") == tmp_path / "probe.html"


def test_an_override_changes_the_data_and_not_the_encoder(workdir):
    model = inference.load(workdir)
    data = probe.data_of(model, None, None, ["--config.supervised.data.sample_rate=16000"])
    assert data.sample_rate == 16000 and model.sample_rate == 8000
    assert model.embedder().stage.data.sample_rate == model.embedder().sample_rate == 8000


@pytest.mark.parametrize("step", [None, 0])  # hf:FOLDER, and a workdir that `convert` wrote
def test_a_checkpoint_of_transformers_has_no_data_of_its_own(workdir, step):
    foreign = dataclasses.replace(inference.load(workdir), step=step)
    with pytest.raises(UserError, match="--config is missing: this checkpoint was converted"):
        probe.data_of(foreign, None, None, ["--config.supervised.data.seconds=0.25"])
    data = probe.data_of(foreign, None, None, ["--config.supervised.data.source=synthetic"])
    assert data.source == "synthetic" and data.seconds == 0.5


def test_several_checkpoints_on_the_same_clips(networks, workdir, tmp_path, capsys):
    """Each gets what it gets alone; the page says what the JSON says."""
    flags = ["--shots", 1, 2, "--draws", 2, "--neighbours", 3, "--random"]
    alone, both, page = (tmp_path / name for name in ("one.json", "two.json", "page.html"))
    run(capsys, "--checkpoint", workdir, *flags, "--output", alone)
    two = ["--checkpoint", workdir, "--checkpoint", networks["wav2vec2"]]
    out, _ = run(capsys, *two, *flags, "--output", both, "--report", page)
    got, want = json.loads(both.read_text()), json.loads(alone.read_text())
    assert got["about"] == want["about"] and list(got["checkpoints"]) == ["small_cnn", "wav2vec2"]
    one = got["checkpoints"]["small_cnn"]
    assert {key: one[key] for key in ("trained", "random")} == {
        key: want[key] for key in ("trained", "random")
    }
    assert one["checkpoint"] == str(workdir) and one["features"] == 8
    head, *lines = out.splitlines()[-6:-1]
    cells = re.split(r"  +", head.strip())
    assert cells[1:] == [
        "3 nearest neighbours",
        "linear probe",
        "linear probe, mean of classes",
        "1 labels a class",
        "2 labels a class",
    ]
    table = [re.split(r"  +", line.strip()) for line in lines]
    assert [row[0] for row in table] == [
        "small_cnn",
        "small_cnn, untrained",
        "wav2vec2",
        "wav2vec2, untrained",
    ]
    text = page.read_text()
    for (name, *shown), (entry, kind) in zip(
        table,
        [(entry, kind) for entry in got["checkpoints"].values() for kind in ("trained", "random")],
        strict=True,
    ):
        scores = entry[kind]
        keys = "knn_accuracy", "linear_accuracy", "linear_balanced_accuracy"
        assert shown[:3] == [f"{100 * scores[key]:.1f}" for key in keys]
        for cell, draws in zip(shown[3:], scores["few_shot_accuracy"].values(), strict=True):
            assert cell == f"{100 * np.mean(draws):.1f} ± {100 * np.std(draws):.1f}"
        row = "".join(f"<td>{cell}</td>" for cell in (name, *shown))
        assert f"<tr>{row}</tr>" in text


def test_one_checkpoint_has_a_page_too(workdir, tmp_path, capsys):
    folder = tmp_path / "page"
    out, _ = run(capsys, "--checkpoint", workdir, "--shots", 99, "--report", folder)
    assert out.splitlines()[-1].startswith(str(folder / "probe.html"))
    text = (folder / "probe.html").read_text()
    assert "all labels: <b>small_cnn</b>" in text and "How good is it?" in text


def test_checkpoints_of_different_clips(networks, workdir, tmp_path, capsys):
    """They are probed only on data that the command names."""
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    config = json.loads((other / "config.json").read_text())
    config["supervised"]["data"]["split_seed"] = 1
    config["supervised"]["data"]["seconds"] = 0.25  # how it reads is its own affair
    (other / "config.json").write_text(json.dumps(config))
    two = ["--checkpoint", workdir, other]
    with pytest.raises(
        UserError, match=r"different clips \(data.split_seed is 0 and 1\).*--config"
    ):
        probe.main(list(map(str, two)))
    named = ["--config.supervised.data.source=synthetic", "--shots", 1, "--draws", 1]
    out, _ = run(capsys, *two, *named)
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["small_cnn", "other"]
