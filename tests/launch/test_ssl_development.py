"""The development score, against scikit-learn on vectors from Python."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sounds import write
from workdirs import write_workdir

import sacjax
from launch.benchmarks import ssl_development
from sacjax.errors import UserError

RATE, CLIPS = 8000, 24


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """A workdir, clips of two pitches by two speakers, and a config with a speaker left out."""
    folder = tmp_path_factory.mktemp("development")
    write_workdir(folder / "run", "small_cnn")
    rng, time = np.random.default_rng(0), np.arange(RATE // 4) / RATE
    rows = ["filename,label,fold"]
    for k in range(CLIPS):
        pitch = 300 if k % 2 else 900
        sound = 0.3 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.3, len(time))
        write(folder / f"{k:02}.wav", sound, RATE)
        rows.append(f"{k:02}.wav,{'low' if k % 2 else 'high'},{1 + (k // 2) % 2}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.py").write_text(
        "from sacjax import config as config_lib\n\n\n"
        "def get_config(fold='1'):\n    c = config_lib.default()\n    d = c.supervised.data\n"
        f"    d.source, d.path = 'manifest', {str(folder / 'clips.csv')!r}\n"
        "    d.sample_rate, d.seconds, d.fold = 8000, 0.25, int(fold)\n"
        "    d.validation_fraction = 0.0\n"
        "    return c\n"
    )
    return folder


def test_the_score_is_that_of_scikit_learn_on_each_fold(folds, capsys):
    output = folds / "score.json"
    specs = [f"{folds / 'config.py'}:{fold}" for fold in (1, 2)]
    flags = ["--checkpoint", str(folds / "run"), "--config", *specs, "--output", str(output)]
    assert ssl_development.main([*flags, "--shots", "6", "--draws", "2"]) == 0
    found = json.loads(output.read_text())["accuracy"]
    x = sacjax.load(folds / "run").embed([folds / f"{k:02}.wav" for k in range(CLIPS)])
    y, fold = np.arange(CLIPS) % 2, 1 + (np.arange(CLIPS) // 2) % 2
    for held, accuracies in zip((1, 2), found, strict=True):
        train, test = fold != held, fold == held  # six of each label: every draw is all of them
        scale = StandardScaler().fit(x[train])
        model = LogisticRegression(C=1.0, max_iter=1000).fit(scale.transform(x[train]), y[train])
        want = model.score(scale.transform(x[test]), y[test])
        assert accuracies == [want, want]
    assert f"{100 * np.mean(found):.2f} %" in capsys.readouterr().out


def test_folds_of_other_clips_are_refused(folds):
    other = folds / "other.csv"
    other.write_text((folds / "clips.csv").read_text().rsplit("\n", 2)[0] + "\n")
    text = (folds / "config.py").read_text().replace("clips.csv", "other.csv")
    (folds / "other.py").write_text(text)
    specs = [f"{folds / name}:1" for name in ("config.py", "other.py")]
    with pytest.raises(UserError, match="different clips"):
        ssl_development.score(str(folds / "run"), specs, "mean", 6, 1)
