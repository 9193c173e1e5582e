"""`python -m sacjax.predict --checkpoint WORKDIR [--checkpoint WORKDIR2 …] PATH… [--format table|csv|json] [--top_k K]`.

Labels sound files, or folders of them, of any rate and length. Label names come from the checkpoint; several checkpoints
are an ensemble whose probabilities are averaged.
"""

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sacjax import compilation, errors
from sacjax.data import pipeline
from sacjax.data.recordings import Recordings
from sacjax.data.sources import EXTENSIONS, OpenFiles
from sacjax.errors import UserError
from sacjax.evaluators import evaluate
from sacjax.train.checkpoint import Trained, load_classifier


def find_files(paths: list[str]) -> list[str]:
    """Returns the sound files of paths: files as they are, folders searched to the bottom. Raises UserError for a missing one."""
    files: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()
            )
            files += [str(p) for p in found if not p.name.startswith(".")]
        elif path.exists():
            files.append(str(path))
        else:
            raise UserError(f"there is no file or folder '{path}'")
    if not files:
        raise UserError(f"no sound files in {', '.join(paths)}")
    return list(dict.fromkeys(files))


def probabilities(models: list[Trained], files: list[str]) -> tuple[np.ndarray, dict[str, str]]:
    """Returns (probabilities [N, C], mean over the models; {file: reason} of those that could not be read).

    Raises:
      UserError: models with different labels.
    """
    names = models[0].class_names
    if any(
        model.class_names != names or model.multi_label != models[0].multi_label for model in models
    ):
        raise UserError(
            "the checkpoints have different labels, or only some are multi-label; an ensemble needs the same"
        )
    total, bad = np.zeros([len(files), len(names)]), {}
    for trained in models:
        stage = trained.stage_config.copy_and_resolve_references()
        stage.data.cache, stage.data.workers = False, 0  # each file is read once
        recordings = Recordings(files, [()] * len(files), names, OpenFiles(files))
        batches = pipeline.eval_batches(
            recordings,
            np.arange(len(files)),
            stage.data,
            min(stage.eval.batch_size, 16),
            stage.eval.overlap,
        )

        def apply(batch: dict, model: Trained = trained) -> Any:
            for index, error in zip(batch["index"], batch["error"], strict=True):
                if error:
                    bad[files[index]] = error
            return model.apply(batch["audio"], batch["length"])

        logits, _ = evaluate.predict(apply, batches, len(files), len(names))
        total += trained.probabilities(logits)
    return total / len(models), bad


def rows_of(
    files: list[str], table: np.ndarray, names: tuple[str, ...], top_k: int
) -> list[dict[str, Any]]:
    """Returns for each file its `top_k` labels, most probable first: {'file', 'labels': [{'label', 'probability'}]}."""
    rows = []
    for file, p in zip(files, table, strict=True):
        best = np.argsort(-p, kind="stable")[:top_k]
        rows.append(
            {
                "file": file,
                "labels": [{"label": names[k], "probability": float(p[k])} for k in best],
            }
        )
    return rows


def show(rows: list[dict[str, Any]], form: str, out: Any) -> None:
    """Writes the rows as an aligned table, as csv (one line a file and label) or as JSON."""
    if form == "json":
        json.dump(rows, out, indent=1, ensure_ascii=False)
        out.write("\n")
    elif form == "csv":
        writer = csv.writer(out)
        writer.writerow(["file", "rank", "label", "probability"])
        for row in rows:
            writer.writerows(
                [row["file"], rank, best["label"], f"{best['probability']:.6f}"]
                for rank, best in enumerate(row["labels"], 1)
            )
    else:
        width = max(len(row["file"]) for row in rows) if rows else 0
        for row in rows:
            labels = "  ".join(
                f"{best['label']} {100 * best['probability']:5.1f} %" for best in row["labels"]
            )
            out.write(f"{row['file']:{width}s}  {labels}\n")


def main(argv: list[str] | None = None) -> int:
    """Parses flags, predicts and prints; 1 where no file could be read."""
    compilation.start()
    parser = argparse.ArgumentParser(
        prog="python -m sacjax.predict", description="Labels sound files and folders."
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="WORKDIR",
        help="several: an ensemble",
    )
    parser.add_argument("--which", choices=("best", "last"), default="best")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--top_k", type=int, default=3)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound file or folder")
    args = parser.parse_args(argv)
    if args.top_k < 1:
        raise UserError(f"--top_k is {args.top_k}: it must be 1 or more")
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    files = find_files(args.paths)
    models = [load_classifier(workdir, args.which) for workdir in args.checkpoint]
    table, bad = probabilities(models, files)
    for file, reason in bad.items():
        print(f"skipped {file}: {reason}", file=sys.stderr)
    good = [k for k, file in enumerate(files) if file not in bad]
    show(
        rows_of([files[k] for k in good], table[good], models[0].class_names, args.top_k),
        args.format,
        sys.stdout,
    )
    return 0 if good else 1


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
