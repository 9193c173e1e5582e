"""How small a classifier may be: distillation and 8 bits, their size, work, speed and accuracy.

    python launch/benchmarks/shrink.py                      # FSDD's official test; resumable
    python launch/benchmarks/shrink.py --task esc10         # five folds; hours on two cores
    python launch/benchmarks/shrink.py --task esc10 --folds 1
    python launch/benchmarks/shrink.py --table              # of what is there

Trains configs/distillation/resnet.py, writes each stage's model as ONNX, in float32 and in int8
(calibrated on training clips), and judges these files by onnxruntime on the test clips. A row of
results/shrink.json is one file: its bytes, the MFLOPs and the milliseconds of one clip on one
thread (the least of several), and its accuracy.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks import jobs
from sacjax import errors, inference, stages
from sacjax.data import sources, splits
from sacjax.data.labels import label_array
from sacjax.evaluators.predictions import predict
from sacjax.inference import export
from sacjax.inference.model import Model
from sacjax.plan import flops

CONFIG = "configs/distillation/resnet.py"
RESULTS = Path(__file__).with_name("results") / "shrink.json"
FOLDS = {"fsdd": (1,), "esc10": (1, 2, 3, 4, 5)}
STAGES = ("teacher", "alone", "student")
FORMS = {"float32": False, "int8": True}
TIMES = 50  # a clip is judged, of which the quickest counts
HEADER = (
    "| task | network | numbers | MB | MFLOPs a clip | ms a clip, one thread | accuracy, % "
    "| folds |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def session_of(path: Path) -> Any:
    """Returns an onnxruntime session of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def logits_of(session: Any, about: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """Returns host batch → log-probabilities [B, C], which are logits of the same classes."""
    multiple = about["samples_multiple_of"]

    def apply(batch: dict[str, Any]) -> np.ndarray:
        audio, length = np.asarray(batch["audio"]), np.asarray(batch["length"], np.int32)
        beyond = -audio.shape[1] % multiple if multiple else 0
        audio = np.pad(audio.astype(np.float32) / 32768, ((0, 0), (0, beyond)))
        found = session.run(None, {"audio": audio, "length": np.maximum(length, 1)})[0]
        return np.log(np.maximum(found, 1e-12))

    return apply


def accuracy(model: Model, apply: Callable[[dict[str, Any]], np.ndarray], folder: Path) -> float:
    """Returns the share of the test clips of a model's config that its file labels rightly."""
    stage = model.stage_config
    recordings = sources.load(stage.data).with_classes(model.labels)
    test = splits.split(recordings, stage.data)["test"]
    batches = stages.eval_batches(recordings, test, stage, folder)
    found, seen = predict(apply, batches, test, len(model.labels))
    labels = label_array(recordings, False, test)
    return float((found.argmax(1) == labels)[seen].mean())


def milliseconds(session: Any, samples: int) -> float:
    """Returns the least time of one clip of so many samples."""
    sound = np.random.default_rng(0).normal(0, 0.1, [1, samples]).astype(np.float32)
    given = {"audio": sound, "length": np.array([samples], np.int32)}
    least = np.inf
    for _ in range(TIMES):
        began = time.perf_counter()
        session.run(None, given)
        least = min(least, time.perf_counter() - began)
    return 1e3 * float(least)


def judge(workdir: Path, stage: str, form: str) -> dict[str, Any]:
    """Exports a stage's model and returns what the file is worth."""
    model = inference.load_trained(workdir, None, stage)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        about = export.write(model, out, "onnx", int8=FORMS[form])
        session = session_of(out / export.PROGRAMS["onnx"])
        multiple = about["samples_multiple_of"]
        samples = about["window_samples"]
        samples += -samples % multiple if multiple else 0
        shapes = jnp.zeros([1, samples], jnp.float32), jnp.full([1], samples, jnp.int32)
        return dict(
            bytes=(out / export.PROGRAMS["onnx"]).stat().st_size,
            mflops=flops.of_jaxpr(jax.make_jaxpr(export.function_of(model))(*shapes).jaxpr) / 1e6,
            milliseconds=milliseconds(session, samples),
            accuracy=accuracy(model, logits_of(session, about), Path(folder)),
        )


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns the rows that are known in Markdown, means over folds."""
    lines = [HEADER]
    for task in FOLDS:
        for stage in STAGES:
            for form in FORMS:
                rows = [
                    row
                    for key, row in found.items()
                    if key.startswith(f"{task}/") and key.endswith(f"/{stage}/{form}")
                ]
                if rows:
                    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
                    cells = [task, stage, form, f"{mean['bytes'] / 1e6:.2f}"]
                    cells += [f"{mean['mflops']:.1f}", f"{mean['milliseconds']:.2f}"]
                    cells += [f"{100 * mean['accuracy']:.2f}", str(len(rows))]
                    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing, judges its files, keeps each answer, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=list(FOLDS), default="fsdd")
    parser.add_argument("--folds", type=int, nargs="+", help="default: all of the task's")
    parser.add_argument("--runs", type=Path, default=Path("runs/shrink"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", help="of the config: --config.…=…, after --")
    args = parser.parse_args(argv)
    found = json.loads(args.results.read_text()) if args.results.is_file() else {}
    for fold in () if args.table else args.folds or FOLDS[args.task]:
        keys = {(s, form): f"{args.task}/fold{fold}/{s}/{form}" for s in STAGES for form in FORMS}
        if all(key in found for key in keys.values()):
            continue
        workdir = args.runs / f"{args.task}_fold{fold}"
        spec = f"{CONFIG}:task={args.task},fold={fold}"
        command = jobs.training(spec, workdir, args.overrides)
        jobs.run([jobs.Job(spec, command, workdir, workdir.with_name(workdir.name + ".log"))], 1)
        for (stage, form), key in keys.items():
            found = jobs.keep(args.results, {key: judge(workdir, stage, form)})
    print(table(found))
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
