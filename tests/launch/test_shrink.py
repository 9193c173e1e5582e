"""The table of small classifiers: its accuracies are those of the models that it exports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from workdirs import network_of, write_workdir

from launch.benchmarks import shrink
from sacjax import config as config_lib
from sacjax.inference.evaluate import evaluate_workdirs

pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")


def test_a_file_is_judged_as_its_model(tmp_path):
    write_workdir(tmp_path / "run", "small_cnn")
    row = shrink.judge(tmp_path / "run", "supervised", "float32")
    known = evaluate_workdirs([str(tmp_path / "run")], [], "test", output=str(tmp_path / "scores"))
    assert row["accuracy"] == pytest.approx(known["test/accuracy"])
    params = jax.tree.leaves(jax.tree.map(jnp.size, network_of("small_cnn")))
    assert row["bytes"] > 4 * sum(int(n) for n in params) and row["milliseconds"] > 0


def test_the_table_means_over_folds():
    row = dict(bytes=2_000_000, mflops=3.0, milliseconds=0.5, accuracy=0.8)
    found = {f"esc10/fold{k}/student/int8": row | dict(accuracy=k / 10) for k in (7, 8)}
    (line,) = shrink.table(found | {"fsdd/fold1/teacher/float32": row}).splitlines()[3:]
    assert line == "| esc10 | student | int8 | 2.00 | 3.0 | 0.50 | 75.00 | 2 |"


@pytest.mark.parametrize("task", list(shrink.FOLDS))
def test_the_student_is_a_tenth_of_its_teacher(task):
    config = config_lib.load(f"{shrink.CONFIG}:task={task}")
    widths = [config[name].model.encoder.width for name in ("student", "teacher")]
    # A ResNet's numbers go with the square of its width.
    assert np.square(widths[0] / widths[1]) == pytest.approx(0.1, abs=0.02)
