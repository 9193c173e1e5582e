"""The speed benchmark at tiny size: that its cheap parts run, and what its JSON and table say.

Never the timings themselves.
"""

import json
import statistics

import numpy as np
import pytest

from launch.benchmarks import speed
from launch.benchmarks.speed_cases import input_pipeline, log_mel, ours, peers
from launch.benchmarks.speed_cases.case import SMALL, Case
from sacjax import errors
from sacjax.data import pipeline, sources


def test_a_part_gives_one_json_and_one_table(tmp_path, capsys):
    pytest.importorskip("torch", reason="needs the extra `parity`")
    pytest.importorskip("transformers", reason="needs the extra `parity`")
    output = tmp_path / "speed.json"
    assert speed.main(["--small", "--repeats", "3", "--only", "d", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    rows = result["rows"]
    assert [row["peer"] for row in rows] == ["torch.stft", "librosa", "transformers' AST extractor"]
    for row in rows:
        assert (
            len(row["ours_all"]) == len(row["peer_all"]) == 3
            and min(row["ours_all"] + row["peer_all"]) > 0
        )
        assert row["ours_seconds"] == statistics.median(row["ours_all"])
        assert row["figure"] == row["peer_seconds"] / row["ours_seconds"]
        assert row["reached"] == (row["figure"] >= row["target"])
    assert result["machine"]["cores"] > 0 and result["machine"]["packages"]["jax"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1


def test_peers_features_are_ours():
    """They do the same work: without masks torch's log-mel spectrogram is that of the front end."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    config = ours.resnet_config(SMALL, augment__spectrogram=())
    stage = ours.Ours(config, "supervised")
    mine = stage.views(stage.batch)["clean"].inputs
    theirs = log_mel.torch_features(stage.stage)(stage.peer_batch()[0])
    torch.testing.assert_close(torch.tensor(mine.tolist()), theirs.mT, atol=1e-3, rtol=0)


def test_both_pipelines_read_the_same_samples(tmp_path):
    """From files as long as a crop; and what `timed` takes of a stream."""
    pytest.importorskip("torch", reason="needs the extra `parity`")
    input_pipeline.write_sounds(tmp_path, SMALL)
    for kind in input_pipeline.FORMATS:
        data = input_pipeline.data_config("folder", tmp_path / kind, SMALL.seconds)
        recordings = sources.load(data)
        batch = next(iter(pipeline.train_batches(recordings, np.arange(20), data, 4, seed=0)))
        for seek in (False, True):
            files = input_pipeline.SoundFiles(recordings.paths, batch["audio"].shape[1], seek)
            theirs = np.stack([files[i] for i in batch["index"]])
            np.testing.assert_allclose(batch["audio"] / 32768, theirs, atol=1e-4)
        assert input_pipeline.our_pipeline(data, SMALL)() > 0
    assert len(list((tmp_path / "long" / "sound").iterdir())) == SMALL.long_files


def test_torch_masks_whole_bands_and_frames():
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    torch.manual_seed(0)
    for axis, other in ((1, 2), (2, 1)):
        masked = log_mel.torch_mask(torch.ones(50, 30, 40), axis, count=2, width=5) == 0
        places = masked.any(other).sum(1)
        assert places.max() <= 10 and 2 < places.float().mean() < 6
        assert torch.equal(masked.any(other), masked.all(other))


def test_a_share_has_to_be_small_and_a_ratio_large():
    case = Case(
        "front end",
        lambda: 1.0,
        {"step": lambda: 4.0, "other": lambda: 4.0},
        {"step": 0.1},
        share=True,
    )
    one, other = speed.measure("f", case, repeats=1)
    assert one["figure"] == 0.25 and one["reached"] is False and other["reached"] is None
    (row,) = speed.measure(
        "e", Case("x", lambda: 1.0, {"y": lambda: 4.0}, {"y": 4.0}, clips=8), repeats=2
    )
    assert row["figure"] == 4 and row["reached"] is True
    late, soon = (
        speed.measure("i", Case("s", lambda: 3.0, {"p": lambda: 6.0}, seconds=most), repeats=1)[0]
        for most in (2.5, 3.5)
    )
    assert speed.table([one, row, late, soon]).splitlines()[2:] == [
        "| f | front end | 1 s | step | 4 s | 25.0 % of it | ≤ 10 % | no |",
        "| e | x | 8 clips/s | y | 2 clips/s | 4.00 × | ≥ 4 × | yes |",
        "| i | s | 3 s | p | 6 s | 2.00 × | ≤ 2.5 s | no |",
        "| i | s | 3 s | p | 6 s | 2.00 × | ≤ 3.5 s | yes |",
    ]


def test_runs_take_turns():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("peer", "other")}
    speed.measure("x", Case("", lambda: order.append("ours"), runs), repeats=2)
    assert order == ["ours", "peer", "other"] * 3  # the first round is the warm-up


def test_an_absent_peer_is_one_line_that_says_what_to_install():
    with pytest.raises(
        errors.UserError,
        match=r"measures no_such_peer, which is absent: pip install -e '.\[parity\]'",
    ):
        peers.need("no_such_peer", "parity")
