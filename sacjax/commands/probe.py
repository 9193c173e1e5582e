"""Probes a frozen encoder: how well do a data set's labels follow from its vectors?

    sacjax probe --checkpoint WORKDIR [--config FILE[:ARG] [--stage NAME]] [--config.key=value …]
        [--random] [--output FILE.json]

embeds the training and the test part of a data set once (default: the workdir's own) and prints the
test accuracy of nearest neighbours, of a linear classifier, and of linear classifiers trained on
few labels. The validation part is not used.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax.commands import embed
from sacjax.errors import UserError
from sacjax.evaluators.probes import check, few_shot, knn, linear


def data_of(model: Any, spec: str | None, name: str | None, overrides: list[str]) -> ConfigDict:
    """Returns the `data` config to probe: of a stage of the config `spec`, or the model's own.

    Args:
      model: of `inference.load`.
      spec: FILE[:ARG] of a config, or None.
      name: the stage asked for; None: the last of `spec`, or the model's own.
      overrides: `--config.key=value` strings.

    Raises:
      UserError: a config that cannot be read, an unknown stage, or clips of several labels.
    """
    if spec:
        config = config_lib.load(spec, overrides)
        name = name or config.stages[-1]
    elif not model.step and not any(names_data(text) for text in overrides):
        raise UserError(
            "--config is missing: this checkpoint was converted, and has no data set of its own to "
            "probe; give --config FILE, or --config.STAGE.data.source or .path"
        )
    else:
        # A copy: the model reads sound as it was trained to, whatever is overridden.
        config = config_lib.from_json(config_lib.to_json(model.config))
        config = config_lib.override(config, overrides)
        name = name or model.stage
    name = config_lib.stage_name(config, name)
    if config[name].data.multi_label:
        raise UserError(f"config.{name}.data.multi_label: probes need clips of one label each")
    return config[name].data


def names_data(override: str) -> bool:
    """Returns whether `--config.STAGE.KEY=value` says which data set it is."""
    key = override.partition("=")[0]
    return key.endswith((".data.source", ".data.path"))


def labelled_parts(recordings: Any, data: ConfigDict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (labels [N], labelled training indices, labelled test indices).

    Raises:
      UserError: too few to probe.
    """
    from sacjax.data import splits

    labels = splits.first_labels(recordings)
    if (labels < 0).all():
        raise UserError(
            f"none of the {len(recordings)} clips of data.source={data.source} has a label: probe "
            "on labelled data by --config"
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
    """Returns the results of all probes of vectors [N, D], labels [N] and two parts' indices."""
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


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's flags."""
    parser = argparse.ArgumentParser(
        prog="sacjax probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses flags, embeds, probes, prints and writes."""
    args, unknown = make_parser().parse_known_args(argv)
    if min(*args.shots, args.draws, args.neighbours) < 1:
        raise UserError("--shots, --draws and --neighbours must be 1 or more")
    overrides = config_lib.overrides_from(unknown)
    from sacjax import compilation, inference
    from sacjax.data import sources

    compilation.start()
    model = inference.load(args.checkpoint, args.which, args.checkpoint_stage)
    layer = embed.layer_of(args.layer)
    data = data_of(model, args.config, args.stage, overrides)
    recordings = sources.load(data)
    labels, train, test = labelled_parts(recordings, data)
    encoders = {"trained": model}
    if args.random:
        encoders["random"] = inference.untrained(model, args.seed)
    results: dict[str, dict[str, Any]] = {}
    for name, one in encoders.items():
        bad: dict[int, str] = {}
        vectors = probed_vectors(one.embedder(layer), recordings, (train, test), bad)
        if not results:
            for k in sorted(bad):
                print(f"skipped {recordings.names[k]}: {bad[k]}", file=sys.stderr)
            train, test = (np.setdiff1d(part, list(bad)) for part in (train, test))
        results[name] = run(vectors, labels, train, test, args)
    classes = len(np.unique(labels[train]))
    print(
        f"{len(train)} training and {len(test)} test clips of {classes} classes; vectors of "
        f"{vectors.shape[1]}"
    )
    print(show(results, args.neighbours))
    if args.output:
        about = {
            "train_clips": len(train),
            "test_clips": len(test),
            "classes": classes,
            "layer": layer,
            "neighbours": args.neighbours,
            "draws": args.draws,
            "seed": args.seed,
        }
        write(Path(args.output), {"about": about, **results})
    return 0


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes results as JSON, in a folder that is made. Raises UserError where it cannot be."""
    from sacjax.io import write_json

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {path}: cannot be written: {error.strerror}; choose another place"
        ) from error
    write_json(path, results, indent=1)


def probed_vectors(
    embedder: Any, recordings: Any, parts: tuple[np.ndarray, np.ndarray], bad: dict[int, str]
) -> np.ndarray:
    """Returns vectors [N, D] of all N recordings, of which only those of the parts are read."""
    from sacjax.inference.embedder import embed_recordings

    indices = np.concatenate(parts)
    vectors, _ = embed_recordings(embedder, recordings, indices, bad)
    table = np.zeros([len(recordings), vectors.shape[1]], np.float32)
    table[indices] = vectors
    return table
