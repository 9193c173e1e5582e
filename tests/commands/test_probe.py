"""Probes on vectors with known answers, and the command on workdirs of random networks."""

import json

import numpy as np
import pytest
import soundfile as sf
from sklearn.linear_model import LogisticRegression
from workdirs import write_workdir

from sacjax.commands import embed, probe
from sacjax.data import sources, splits
from sacjax.errors import UserError


def clouds(per_class, classes, dim, spread, seed):
    """Gaussian clouds around fixed centres: (vectors [N, dim], labels [N])."""
    centres = np.random.default_rng(99).standard_normal([classes, dim])
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return centres[labels] + spread * rng.standard_normal([len(labels), dim]), labels


def test_nearest_neighbours_as_worked_by_hand():
    train = np.array([[1.0, 0], [10, 1], [0, 1], [1, 10]])
    test = np.array([[5.0, 1], [0.1, 3], [0.1, 4]])
    labels = np.array([0, 0, 1, 1])
    assert probe.knn(train, labels, test, np.array([0, 1, 0]), 2) == pytest.approx(2 / 3)
    assert (
        probe.knn(train, labels, None, None, 1) == 1.0
    )  # each one's neighbour is the other of its class
    assert (
        probe.knn(train, np.array([0, 1, 1, 0]), None, None, 1) == 0.0
    )  # its own neighbour it would be right


def test_the_linear_probe_standardizes():
    """One small dimension tells the classes, one large one tells nothing."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    vectors = np.stack([1e-4 * (2 * labels - 1), 1e3 * rng.standard_normal(80)], 1)
    assert probe.linear(vectors[:40], labels[:40], vectors[40:], labels[40:], 0) == 1.0
    plain = LogisticRegression().fit(vectors[:40], labels[:40]).score(vectors[40:], labels[40:])
    assert plain < 0.8


def test_regularization_is_chosen_on_the_training_vectors():
    """Many dimensions, of which two tell: C = 1 overfits. The choice must not see the test vectors."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    vectors = rng.standard_normal([400, 100])
    vectors[:, :2] += (labels[:, None] - 0.5) * 1.6
    four = vectors[:80], labels[:80], vectors[80:], labels[80:]
    chosen = probe.linear(*four, 0)
    (fixed,) = probe.few_shot(*four, (40,), 1, 0)[40]  # the same classifier with C = 1
    assert chosen > fixed + 0.03
    halves = [
        probe.linear(vectors[:80], labels[:80], vectors[k::2], labels[k::2], 0) for k in (80, 81)
    ]
    assert np.mean(halves) == pytest.approx(chosen)


def test_few_training_vectors_take_c_1():
    train, labels = clouds(4, 3, 20, 2.0, 1)  # fewer than five a class: no folds
    test, answers = clouds(50, 3, 20, 2.0, 2)
    centre, scale = train.mean(0), train.std(0)
    want = LogisticRegression(C=1.0, max_iter=1000).fit((train - centre) / scale, labels)
    want = want.score((test - centre) / scale, answers)
    assert probe.linear(train, labels, test, answers, 0) == pytest.approx(want) and 0.4 < want < 1


def test_draws_of_few_shots(monkeypatch):
    labels = np.repeat([0, 1, 2], [30, 3, 10])
    train = np.arange(len(labels))[:, None]  # each vector is its place
    taken = []

    def record(model, vectors, own, test, answers):
        assert np.array_equal(own, labels[vectors[:, 0]])
        taken.append(vectors[:, 0].tolist())
        return len(taken)

    monkeypatch.setattr(probe, "_accuracy", record)
    result = probe.few_shot(train, labels, train, labels, (1, 5), 3, 7)
    assert result == {1: [1, 3, 5], 5: [2, 4, 6]}
    ones, fives = taken[::2], taken[1::2]
    for one, five in zip(ones, fives, strict=True):
        assert np.bincount(labels[one]).tolist() == [1, 1, 1] and np.bincount(
            labels[five]
        ).tolist() == [5, 3, 5]
        assert set(one) < set(five) and len(set(five)) == 13
    assert fives[0] != fives[1] != fives[2]
    taken.clear()
    probe.few_shot(train, labels, train, labels, (5,), 3, 7)
    assert taken == fives  # neither chance nor the other shots change a draw
    assert list(probe.few_shot(train, labels, train, labels, (30, 31), 1, 7)) == [
        30
    ]  # no class has 31
    taken.clear()
    probe.few_shot(train, labels, train, labels, (5,), 3, 8)
    assert taken != fives


def test_more_labels_help():
    train, labels = clouds(60, 4, 30, 2.5, 1)
    test, answers = clouds(100, 4, 30, 2.5, 2)
    result = probe.few_shot(train, labels, test, answers, (1, 50), 4, 0)
    assert (
        len(result[1]) == 4
        and np.mean(result[50]) > np.mean(result[1]) + 0.15
        and len(set(result[1])) > 1
    )


def test_what_cannot_be_probed():
    vectors, labels = clouds(3, 2, 4, 1.0, 1)
    with pytest.raises(UserError, match="training part has no labelled clip"):
        probe.linear(vectors[:0], labels[:0], vectors, labels)
    with pytest.raises(UserError, match="test part has no labelled clip"):
        probe.few_shot(vectors, labels, vectors[:0], labels[:0])
    with pytest.raises(UserError, match="training part has 1 class"):
        probe.linear(vectors[:3], labels[:3], vectors, labels)
    with pytest.raises(UserError, match="--draws 0"):
        probe.few_shot(vectors, labels, vectors, labels, (1,), 0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    write_workdir(folder, "small_cnn")
    return folder


def run(capsys, *args):
    assert probe.main(list(map(str, args))) == 0
    return capsys.readouterr()


def test_command_on_the_workdirs_own_data(workdir, tmp_path, capsys):
    out, _ = run(
        capsys, "--checkpoint", workdir, "--random", "--shots", 1, 2, "--draws", 2, "--neighbours", 3, "--output",
        tmp_path / "deep" / "probe.json",
    )  # fmt: skip
    got = json.loads((tmp_path / "deep" / "probe.json").read_text())
    assert got["about"] | {"train_clips": 40, "test_clips": 20, "classes": 20} == got["about"]
    embedder = embed.load(workdir)
    data = embedder.stage.data
    recordings = sources.load(data)
    parts, labels = splits.split(recordings, data), splits.first_labels(recordings)
    vectors, seen = embed.embed_recordings(
        embedder, recordings, np.concatenate([parts["train"], parts["test"]])
    )
    assert seen.sum() == 60 and not seen[parts["validation"]].any()
    four = [x for name in ("train", "test") for x in (vectors[parts[name]], labels[parts[name]])]
    assert got["trained"]["knn_accuracy"] == probe.knn(*four, 3)
    assert got["trained"]["linear_accuracy"] == probe.linear(*four, 0)
    want = probe.few_shot(*four, (1, 2), 2, 0)
    assert got["trained"]["few_shot_accuracy"] == {"1": want[1], "2": want[2]}
    assert got["random"]["few_shot_accuracy"] != got["trained"]["few_shot_accuracy"]
    head, *lines = out.splitlines()[-5:]
    assert head.split()[-2:] == ["trained", "random"]
    assert [line.split("  ")[0] for line in lines] == [
        "3 nearest neighbours",
        "linear probe",
        "1 labels a class",
        "2 labels a class",
    ]
    assert f"{100 * got['trained']['knn_accuracy']:.1f}" in lines[0]
    assert f"{100 * np.mean(want[2]):.1f} ± {100 * np.std(want[2]):.1f}" in lines[3]


def test_command_on_another_data_set(workdir, folder_of_sounds, tmp_path, capsys):
    """Low and high tones, which even a random network tells apart; some have no label, one is broken."""
    time = np.arange(4000) / 8000
    for k in range(4):
        sf.write(
            folder_of_sounds / f"unlabelled{k}.wav", 0.3 * np.sin(2 * np.pi * 700 * time), 8000
        )
    (folder_of_sounds / "low" / "low99.wav").write_text("this is no sound")
    stage = "--config.supervised.data"
    _, err = run(
        capsys, "--checkpoint", workdir, "--config", "configs/folder.py", f"{stage}.path={folder_of_sounds}",
        f"{stage}.holdout=(0.5,0.0,0.5)", "--shots", 5, "--output", tmp_path / "p.json",
    )  # fmt: skip
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
            ["data.multi_label=True", "objective.loss=sigmoid"],
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
    with pytest.raises(UserError, match="no hidden states"):
        probe.main([*start, "--layer", "1"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        probe.write(tmp_path / "file" / "p.json", {})


def test_an_override_changes_the_data_and_not_the_encoder(workdir):
    embedder = embed.load(workdir)
    data = probe.data_of(embedder, None, None, ["--config.supervised.data.sample_rate=16000"])
    assert (
        data.sample_rate == 16000
        and embedder.stage.data.sample_rate == embedder.sample_rate == 8000
    )
    embedder.config = None
    with pytest.raises(UserError, match="--config is missing"):
        probe.data_of(embedder, None, None, [])
