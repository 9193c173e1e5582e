"""The synthesized home: its labels are where its sounds are."""

import csv

import numpy as np
import pytest
import soundfile as sf
from processes import ROOT

from launch.benchmarks import home_sound
from sacjax import config as config_lib
from sacjax.data import sources


def test_ten_labelled_seconds_and_all_of_the_test(tmp_path):
    home_sound.make(tmp_path, minutes=1)
    config = config_lib.load(f"{ROOT}/configs/switch.py:folder={tmp_path}")
    found = sources.load(config.supervised.data)
    # 2.5 s hold 40 windows of 0.5 s every 0.05 s, one more or less as they fall on the grid.
    assert len(found) == pytest.approx(4 * 40, abs=4)
    assert found.class_names == ("background", "switch")
    share = np.mean([own == ("switch",) for own in found.labels])
    assert 0.1 < share < 0.4
    rows = list(csv.DictReader((tmp_path / "test.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == {"switch"}
    for row in rows:
        x, rate = sf.read(tmp_path / row["filename"])
        start, end = (round(float(row[key]) * rate) for key in ("start", "end"))
        inside, before = x[start:end], x[start - rate : start - 80]
        # High frequencies, by the difference of neighbours: the click, not the rumble.
        assert np.abs(np.diff(inside)).max() > 3 * np.std(np.diff(before))
