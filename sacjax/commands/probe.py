"""Probes of frozen encoders: how well do a data set's labels follow from an encoder's vectors?

    python -m sacjax.probe --checkpoint WORKDIR [--config FILE[:ARG] [--stage NAME]] [--config.key=value …] [--random] [--output FILE]

embeds the training and the test part of a data set once (default: the workdir's own) and prints the test accuracy of nearest
neighbours, of a linear classifier, and of linear classifiers trained on few labels. The validation part is not used.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax import compilation, errors
from sacjax import config as config_lib
from sacjax.errors import UserError

REGULARIZATION = tuple(10.0**k for k in range(-4, 3))  # values of C to choose from
FOLDS = 5


def knn(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None,
    test_labels: np.ndarray | None,
    neighbours: int = 10,
) -> float:
    """Returns the accuracy of the majority of the nearest training vectors [N, D] by cosine distance.

    Without test vectors each training vector is asked for the others' label.
    """
    from sklearn.neighbors import KNeighborsClassifier

    others = len(train) - (test is None)
    model = KNeighborsClassifier(min(neighbours, others), metric="cosine").fit(train, train_labels)
    return float(np.mean(model.predict(test) == (train_labels if test is None else test_labels)))


def linear(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
) -> float:
    """Returns the test accuracy of logistic regression on standardized vectors [N, D].

    The strength of its regularization is chosen by stratified 5-fold cross-validation on the training vectors where each class has 5
    or more, else C = 1. `seed` shuffles the folds.

    Raises:
      UserError: fewer than two classes to train on, or nothing to test.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    check(train_labels, test_labels)
    model = _classifier()
    if np.unique(train_labels, return_counts=True)[1].min() >= FOLDS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"logisticregression__C": REGULARIZATION}, cv=folds)
    return _accuracy(model, train, train_labels, test, test_labels)


def few_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = (1, 5, 10, 50),
    draws: int = 5,
    seed: int = 0,
) -> dict[int, list[float]]:
    """Returns {shot: [test accuracy of each draw]} of logistic regression (C = 1) on so many random training vectors of each class.

    A class that has fewer gives all it has; shots that no class has are left out. Within a draw the vectors of a smaller shot are among
    those of a larger one.

    Raises:
      UserError: fewer than two classes to train on, nothing to test, or shots or draws that are not positive.
    """
    check(train_labels, test_labels)
    if draws < 1 or any(shot < 1 for shot in shots):
        raise UserError(
            f"--shots {' '.join(map(str, shots))} and --draws {draws} must be 1 or more"
        )
    most = int(np.unique(train_labels, return_counts=True)[1].max())
    accuracy: dict[int, list[float]] = {shot: [] for shot in shots if shot <= most}
    for draw in range(draws):
        order = shuffled_classes(train_labels, seed, draw)
        for shot in accuracy:
            kept = np.concatenate([own[:shot] for own in order])
            accuracy[shot].append(
                _accuracy(_classifier(), train[kept], train_labels[kept], test, test_labels)
            )
    return accuracy


def shuffled_classes(labels: np.ndarray, seed: int, draw: int) -> list[np.ndarray]:
    """Returns for each class the places of its vectors, in the random order of a draw."""
    rng = np.random.default_rng([seed, draw])
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def check(train_labels: np.ndarray, test_labels: np.ndarray) -> None:
    """Raises UserError where there is nothing to train on or to test."""
    for part, labels in (("training", train_labels), ("test", test_labels)):
        if not len(labels):
            raise UserError(
                f"the {part} part has no labelled clip to probe with; see data.fold, data.holdout, data.path"
            )
    classes = len(np.unique(train_labels))
    if classes < 2:
        raise UserError(f"the training part has {classes} class; a probe needs two or more")


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))


def _accuracy(
    model: Any,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
) -> float:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # with little regularization; accuracy has long settled
        return float(model.fit(train, train_labels).score(test, test_labels))


def data_of(embedder: Any, spec: str | None, name: str | None, overrides: list[str]) -> ConfigDict:
    """Returns the `data` config to probe: of a stage of the config file `spec`, or of the embedder's own config.

    Args:
      name: the stage asked for; default: the last of `spec`, or the embedder's own.

    Raises:
      UserError: a config that cannot be read, an unknown stage, or clips of several labels.
    """
    if spec:
        config = config_lib.load(spec, overrides)
        name = name or config.stages[-1]
    elif embedder.config is None:
        raise UserError("--config is missing: this checkpoint has no data set of its own to probe")
    else:
        # A copy: the embedder reads sound as it was trained to, whatever is overridden.
        config = config_lib.override(
            config_lib.from_json(config_lib.to_json(embedder.config)), overrides
        )
        name = name or embedder.name
    name = config_lib.stage_name(config, name)
    if config[name].data.multi_label:
        raise UserError(f"config.{name}.data.multi_label: probes need clips of one label each")
    return config[name].data


def labelled_parts(recordings: Any, data: ConfigDict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (labels [N], labelled training indices, labelled test indices). Raises UserError where there are too few to probe."""
    from sacjax.data import splits

    labels = splits.first_labels(recordings)
    if (labels < 0).all():
        raise UserError(
            f"none of the {len(recordings)} clips of data.source={data.source} has a label: probe on labelled data by --config"
        )
    parts = splits.split(recordings, data)
    train, test = (parts[name][labels[parts[name]] >= 0] for name in ("train", "test"))
    check(labels[train], labels[test])
    return labels, train, test


def run(
    vectors: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Returns the results of all probes of vectors [N, D], labels [N] and the indices of two parts."""
    four = vectors[train], labels[train], vectors[test], labels[test]
    shots = few_shot(*four, args.shots, args.draws, args.seed)
    return {
        "knn_accuracy": knn(*four, args.neighbours),
        "linear_accuracy": linear(*four, args.seed),
        "few_shot_accuracy": {str(shot): values for shot, values in shots.items()},
    }


def show(results: dict[str, dict[str, Any]], neighbours: int) -> str:
    """Returns the results, {encoder: of `run`}, as a table in percent."""
    first = next(iter(results.values()))
    rows = [["test accuracy, %", *results]]
    rows.append(
        [
            f"{neighbours} nearest neighbours",
            *(f"{100 * r['knn_accuracy']:.1f}" for r in results.values()),
        ]
    )
    rows.append(["linear probe", *(f"{100 * r['linear_accuracy']:.1f}" for r in results.values())])
    for shot in first["few_shot_accuracy"]:
        draws = [100 * np.asarray(r["few_shot_accuracy"][shot]) for r in results.values()]
        rows.append([f"{shot} labels a class", *(f"{x.mean():.1f} ± {x.std():.1f}" for x in draws)])
    wide = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]) for row in rows
    )


def main(argv: list[str] | None = None) -> int:
    """Parses flags, embeds, probes, prints and writes."""
    compilation.start()
    from sacjax.commands import embed
    from sacjax.data import sources

    parser = argparse.ArgumentParser(
        prog="python -m sacjax.probe", description="Probes a frozen encoder.", allow_abbrev=False
    )
    embed.add_flags(parser)
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="probe on this config's data; --config.key=value overrides",
    )
    parser.add_argument(
        "--stage", help="which of its stages has the data (default: its last; the checkpoint's own)"
    )
    parser.add_argument(
        "--random", action="store_true", help="also the same network with fresh parameters"
    )
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 5, 10, 50], help="labels a class"
    )
    parser.add_argument(
        "--draws", type=int, default=5, help="random choices of the labels of each shot"
    )
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument(
        "--seed", type=int, default=0, help="of draws, cross-validation and fresh parameters"
    )
    parser.add_argument("--output", metavar="FILE.json")
    args, unknown = parser.parse_known_args(argv)
    if min(*args.shots, args.draws, args.neighbours) < 1:
        raise UserError("--shots, --draws and --neighbours must be 1 or more")
    overrides = config_lib.overrides_from(unknown)
    embedder = embed.load(
        args.checkpoint, args.which, args.checkpoint_stage, embed.layer_of(args.layer)
    )
    data = data_of(embedder, args.config, args.stage, overrides)
    recordings = sources.load(data)
    labels, train, test = labelled_parts(recordings, data)
    embedders = {"trained": embedder} | (
        {"random": embed.untrained(embedder, args.seed)} if args.random else {}
    )
    results: dict[str, dict[str, Any]] = {}
    for name, one in embedders.items():
        bad: dict[int, str] = {}
        vectors, seen = embed.embed_recordings(one, recordings, np.concatenate([train, test]), bad)
        for k in sorted(bad) if not results else []:
            print(f"skipped {recordings.names[k]}: {bad[k]}", file=sys.stderr)
        train, test = train[seen[train]], test[seen[test]]
        results[name] = run(vectors, labels, train, test, args)
    classes = len(np.unique(labels[train]))
    print(
        f"{len(train)} training and {len(test)} test clips of {classes} classes; vectors of {embedder.features}"
    )
    print(show(results, args.neighbours))
    if args.output:
        about = {"train_clips": len(train), "test_clips": len(test), "classes": classes, "layer": embedder.layer,
                 "neighbours": args.neighbours, "draws": args.draws, "seed": args.seed}  # fmt: skip
        write(Path(args.output), {"about": about, **results})
    return 0


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes the results as JSON, whole or not at all. Raises UserError for a place that cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"--output {path}: cannot be written: {error.strerror}; choose another place"
        ) from error


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
