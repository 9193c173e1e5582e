"""A workdir in a bucket, from a killed run to predictions."""

import json
import time

import numpy as np
import pytest
from conftest import ROOT
from processes import Python

import sacjax
from sacjax.commands import train
from sacjax.errors import UserError

RUN = "gs://bucket/run"


def losses(text):
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_a_killed_run_goes_on_and_is_evaluated_and_predicted_from(
    bucket, outage, tmp_path, folder_of_sounds, small_overrides
):
    """With the losses and results of a run on a disk, though the bucket refuses for a while."""
    command = ["--config", str(ROOT / "configs" / "folder.py"), *small_overrides]
    command += ["--config.supervised.train.log_every=1", "--config.checkpoint.every=4"]
    train.main([*command, "--workdir", str(tmp_path / "run")])

    process = Python("-m", "sacjax.main", *command, "--workdir", RUN)
    saved = "run/checkpoints/supervised/4/commit_success.txt"
    while saved not in bucket.names() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert saved in bucket.names() and "run/results.json" not in bucket.names()
    assert 4 in losses(bucket.content("run/metrics.jsonl").decode())

    left = outage()
    process = Python("-m", "sacjax.main", *command, "--workdir", RUN)
    out, err = process.communicate()
    assert process.returncode == 0 and left() == 0, err[-3000:]
    assert "supervised: goes on from step " in out
    whole = losses((tmp_path / "run" / "metrics.jsonl").read_text())
    found = losses(bucket.content("run/metrics.jsonl").decode())
    assert list(found) == list(whole) == list(range(1, 13))
    np.testing.assert_allclose(list(found.values()), list(whole.values()), rtol=1e-5)
    here = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("run/[!t]*")}
    assert here <= {"/".join(name.split("/")[:2]) for name in bucket.names()}
    events = [name for name in bucket.names() if name.startswith("run/tensorboard/supervised/")]
    # Of the killed run too, unless that was before they were first put.
    assert len(events) in (1, 2) and all(map(bucket.content, events))

    train.main(["--mode", "eval", "--workdir", RUN])
    scores = json.loads(bucket.content("run/eval/test/scores.json"))
    assert bucket.content("run/results.json") == (tmp_path / "run" / "results.json").read_bytes()
    results = json.loads(bucket.content("run/results.json"))["supervised"]
    assert scores["test/accuracy"] == results["test/accuracy"]
    sounds = sorted(map(str, folder_of_sounds.glob("*/*.wav")))
    local, there = sacjax.load(tmp_path / "run"), sacjax.load(RUN)
    assert there.step == local.step
    np.testing.assert_allclose(
        there.predict(sounds).probabilities, local.predict(sounds).probabilities, rtol=1e-4
    )


def test_a_mistake_leaves_nothing_in_a_bucket(bucket, small_overrides):
    command = ["--config", str(ROOT / "configs" / "folder.py"), *small_overrides]
    with pytest.raises(UserError, match="data.fold"):
        train.main([*command, "--config.supervised.data.fold=9", "--workdir", "gs://bucket/wrong"])
    assert not [name for name in bucket.names() if name.startswith("wrong")]
