"""ESC-10 with unequal classes: the manifest, the configs of all ways, and the table."""

import csv

import numpy as np
import pytest

from launch.benchmarks import imbalance
from sacjax.errors import UserError


def rows_of(folder, fold):
    """Returns the rows of a manifest of ten classes of 8 clips a fold, whose files are empty."""
    audio = folder / "audio"
    audio.mkdir(exist_ok=True)
    for own in range(1, 6):
        for label in range(10):
            for take in range(8):
                (audio / f"{own}-{100 * label + take}-A-{label}.ogg").touch()
    imbalance.write_manifest(folder / "m.csv", audio, fold)
    with open(folder / "m.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_manifest_keeps_the_test_fold_and_ever_fewer_of_the_rest(tmp_path):
    for fold in (1, 4):
        rows = rows_of(tmp_path, fold)
        test = [row["filename"] for row in rows if row["split"] == "test"]
        assert len(test) == 80 and all(f"/{fold}-" in name for name in test)
        train = [row for row in rows if row["split"] == "train"]
        assert not any(f"/{fold}-" in row["filename"] for row in train)
        counts = np.bincount([int(row["label"].removeprefix("class")) for row in train])
        order = np.roll(np.arange(10), 2 * (fold - 1))
        assert counts[order].tolist() == [32, 25, 20, 16, 13, 10, 8, 6, 5, 4]
    with pytest.raises(UserError, match="there is no ESC-10"):
        imbalance.write_manifest(tmp_path / "m.csv", tmp_path / "nowhere", 1)


@pytest.mark.parametrize("way", [*imbalance.WHOLE, *imbalance.HEADS])
def test_each_way_is_a_config_that_holds_together(way, tmp_path):
    config = imbalance.config_of(tmp_path / "m.csv", way, tmp_path / "plain", quick=False)
    plain = imbalance.config_of(tmp_path / "m.csv", "plain", tmp_path / "plain", quick=False)
    assert (config.to_json_best_effort() == plain.to_json_best_effort()) == (way == "plain")
    assert config.supervised.train.steps == imbalance.STEPS


def test_the_table_means_over_folds():
    row = dict(accuracy=0.5, rare=0.2, macro_f1=0.4, cpu_seconds=60.0)
    found = {"fold1/smote": row, "fold1/pgd": row, "fold2/pgd": row | dict(rare=0.4)}
    found["fold2/probe_smote"] = dict(accuracy=1.0, rare=0.75)
    assert imbalance.table(found).splitlines()[2:] == [
        "| pgd | 50.0 | 30.0 | 2 | 1.0 |",
        "| probe_smote | 100.0 | 75.0 | 1 |  |",
    ]
