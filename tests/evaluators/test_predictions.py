"""Predictions over windows, on one host and on two, and their table."""

import csv
import socket
import warnings

import numpy as np
import pytest
from processes import Python

from sacjax.evaluators.predictions import predict, read_predictions, write_predictions


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def batch(index, mask, value):
    return dict(
        index=np.array(index), mask=np.array(mask, np.float32), value=np.array(value, float)
    )


def both(batch):
    return np.stack([batch["value"], -batch["value"]], 1)


WINDOWS = [
    batch([0, 2, 0], [1, 1, 1], [1.0, 5.0, 3.0]),
    batch([2, 3, -1], [1, 0, 0], [6.0, 9.0, 99.0]),
    batch([4, 4, -1], [0, 1, 0], [7.0, 8.0, 99.0]),
]


def test_predict_means_logits_over_windows_and_leaves_out_clips_with_a_bad_one():
    logits, seen = predict(both, WINDOWS, np.arange(5), 2)
    np.testing.assert_allclose(logits, [[2, -2], [0, 0], [5.5, -5.5], [0, 0], [0, 0]])
    assert seen.tolist() == [True, False, True, False, False]
    with pytest.raises(ValueError, match="2 rows for a batch of 3"):
        predict(lambda b: np.zeros([2, 2]), WINDOWS, np.arange(5), 2)


def test_predictions_follow_the_order_of_the_clips_and_take_no_room_for_others():
    """The last of a data set of a thousand million clips, and some before it."""
    clips = np.array([10**9, 2, 0, 7, 4, 3])
    batches = [*WINDOWS, batch([10**9], [1], [4.0])]
    values, seen = predict(both, batches, clips, 2)
    np.testing.assert_allclose(values[:, 0], [4, 5.5, 2, 0, 0, 0])
    assert seen.tolist() == [True, True, True, False, False, False]
    values, seen = predict(both, [], np.array([], int), 2)
    assert values.shape == (0, 2) and seen.shape == (0,)


# Two batches of a mesh with its hosts interleaved; each host has four rows of either.
WORKER = """
import sys, jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank = int(sys.argv[2])
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=rank)
from jax.sharding import Mesh
from sacjax.evaluators.predictions import predict
from sacjax.train import sharding
mesh = Mesh(np.array(jax.devices())[[2, 1, 3, 0]], ("data",))
factors = np.array([2.0, -2.0], np.float32)
double = jax.jit(lambda x: factors * x[:, None], out_shardings=sharding.over_batch(mesh))
rows = np.arange(16).reshape(2, 2, 4)[:, rank]
batches = [dict(index=r.astype(np.int32), mask=(r < 15).astype(np.float32)) for r in rows]
def on_mesh(batch):
    return double(sharding.put_batch({"x": batch["index"].astype(np.float32)}, mesh)["x"])
for apply in on_mesh, lambda b: factors * b["index"][:, None]:
    values, seen = predict(apply, batches, np.arange(16), 2)
    want = factors * np.arange(16)[:, None]; want[15] = 0
    assert np.array_equal(values, want), values
    assert seen.tolist() == [True] * 15 + [False]
print("equal")
"""


def test_predict_on_two_hosts_whatever_the_order_of_the_mesh():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    hosts = [Python("-c", WORKER, port, k, devices=2) for k in range(2)]
    try:
        for host in hosts:
            out, err = host.communicate()
            assert host.returncode == 0 and "equal" in out, err[-2000:]
    finally:
        for host in hosts:
            host.kill()


def test_write_predictions(tmp_path):
    rows = [
        dict(file='a,"b".wav', split="test", label="dog", probabilities=np.array([0.25, 0.75])),
        dict(file="naïve-\udcff.wav", split="test", label="", probabilities=np.array([0.625, 0.5])),
    ]
    path = tmp_path / "predictions.csv"
    write_predictions(path, rows, ("cat", "dog"))
    with open(path, newline="", encoding="utf-8") as file:
        head, *table = csv.reader(file)
    assert head == ["file", "split", "label", "prediction", "cat", "dog"]
    assert table[0] == ['a,"b".wav', "test", "dog", "dog", "0.25", "0.75"]
    assert table[1] == ["naïve-\\udcff.wav", "test", "", "cat", "0.625", "0.5"]
    read, names = read_predictions(path)
    assert names == ("cat", "dog") and read[0].pop("prediction") == "dog"
    np.testing.assert_array_equal(read[0].pop("probabilities"), [0.25, 0.75])
    assert read[0] == dict(file='a,"b".wav', split="test", label="dog")
    write_predictions(path, rows, ("cat", "dog"), multi_label=True)
    assert [line.split(",")[-3] for line in path.read_text(encoding="utf-8").splitlines()[1:]] == [
        "dog",
        "cat|dog",
    ]
    assert list(tmp_path.iterdir()) == [path]
