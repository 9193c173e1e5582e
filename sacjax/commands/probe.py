"""Probes frozen encoders: how well do a data set's labels follow from their vectors?

    sacjax probe --checkpoint WORKDIR [WORKDIR2 …] [--config FILE[:ARG] [--stage NAME]]
        [--config.key=value …] [--random] [--output FILE.json] [--report FOLDER|FILE.html]

embeds the training and the test part of a data set once (default: the workdir's own) and prints the
test accuracy of nearest neighbours, of a linear classifier, and of linear classifiers trained on
few labels. The validation part is not used. Several checkpoints are probed on the same clips, with
the same draws of few labels; the report says which is best and lets one hear its test clips.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax.commands import embed
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.io import check_writable, to_path, write_json

if TYPE_CHECKING:
    from sacjax.inference.comparison import Probed


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


def show(results: dict[str, dict[str, Any]], neighbours: int) -> str:
    """Returns {encoder: scores} as a table in percent, a column for each encoder."""
    columns = {name: probes.in_percent(scores, neighbours) for name, scores in results.items()}
    probed = next(iter(columns.values()))
    rows = [[probe, *(cells[probe] for cells in columns.values())] for probe in probed]
    return aligned([["test accuracy, %", *results], *rows])


def compare(results: "dict[str, Probed]", neighbours: int) -> str:
    """Returns the results of several checkpoints as a table in percent, a line for each encoder."""
    from sacjax.inference.comparison import lines_of

    lines = {line.title: probes.in_percent(line.scores, neighbours) for line in lines_of(results)}
    rows = [[title, *cells.values()] for title, cells in lines.items()]
    return aligned([["test accuracy, %", *next(iter(lines.values()))], *rows])


def aligned(rows: list[list[str]], left: int = 1) -> str:
    """Returns rows of text as a table: `left` columns to the left, the others to the right."""
    wide = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [*map(str.ljust, row[:left], wide[:left]), *map(str.rjust, row[left:], wide[left:])]
        )
        for row in rows
    )


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's flags."""
    parser = argparse.ArgumentParser(
        prog="sacjax probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    embed.add_flags(parser, several=True)
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
        "--balance",
        choices=get_args(probes.Balance),
        default="none",
        help="what the linear probe does about classes of unequal size: weights, or vectors that "
        "are repeated (over) or made up (the others, by imbalanced-learn)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of draws, cross-validation and fresh parameters"
    )
    parser.add_argument("--output", metavar="FILE.json")
    parser.add_argument(
        "--report",
        metavar="FOLDER|FILE.html",
        help="a page that compares them, with a map of test clips to listen to",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses flags, probes, prints and writes."""
    args, unknown = make_parser().parse_known_args(argv)
    if min(*args.shots, args.draws, args.neighbours) < 1:
        raise UserError("--shots, --draws and --neighbours must be 1 or more")
    check_seed(args.seed)
    overrides = config_lib.overrides_from(unknown)
    from sacjax import compilation, inference
    from sacjax.inference import comparison

    names = dict(zip(comparison.names_of(args.checkpoint), args.checkpoint, strict=True))
    check_outputs(args)
    probes.classifier(args.balance)  # raises where an extra is missing
    compilation.start()
    layer = embed.layer_of(args.layer)

    @functools.lru_cache(maxsize=1)  # one network in memory at a time
    def load(name: str) -> Any:
        return inference.load(names[name], args.which, args.checkpoint_stage)

    data = data_of_all(load, list(names), layer, args, overrides)
    results, clips, bad = comparison.probe(
        ((name, load(name)) for name in names),
        comparison.clips_of(data),
        layer=layer,
        pooling=args.pooling,
        random=args.random,
        seed=args.seed,
        neighbours=args.neighbours,
        shots=args.shots,
        draws=args.draws,
        balance=args.balance,
    )
    for k in sorted(bad):
        print(f"skipped {clips.recordings.names[k]}: {bad[k]}", file=sys.stderr)
    about = {
        "train_clips": len(clips.train),
        "test_clips": len(clips.test),
        "classes": len(np.unique(clips.labels[clips.train])),
        "layer": layer,
        "pooling": args.pooling,
        "neighbours": args.neighbours,
        "draws": args.draws,
        "balance": args.balance,
        "seed": args.seed,
    }
    print_results(about, results)
    if args.output:
        write(to_path(args.output), as_json(about, results, names))
    if args.report:
        from sacjax.report import comparison as report

        path = page_path(args.report)
        report.write(path, about, results, names, clips, int(data.sample_rate))
        print(f"{path}: the page to look at")
    return 0


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that NumPy or scikit-learn would not take."""
    if not 0 <= seed < 1 << 32:
        raise UserError(f"--seed is {seed}: it must be from 0 to {(1 << 32) - 1}")


def check_outputs(args: argparse.Namespace) -> None:
    """Raises UserError for results that could not be written, before there are any."""
    if args.output:
        check_writable(args.output, "--output")
    if args.report:
        check_writable(page_path(args.report), "--report")


def page_path(text: str) -> Path:
    """Returns the page's file: what `--report` names, or `probe.html` in the folder that it is."""
    path = to_path(text)
    is_file = path.suffix.lower() in (".html", ".htm") and not path.is_dir()
    return path if is_file else path / "probe.html"


def data_of_all(
    load: Callable[[str], Any],
    names: list[str],
    layer: int | str,
    args: argparse.Namespace,
    overrides: list[str],
) -> ConfigDict:
    """Returns the `data` config to probe all checkpoints on; each is seen to load before.

    Raises:
      UserError: one that cannot be probed, or no data that is all theirs.
    """
    models = {}
    for name in names:
        model = load(name)
        model.embedder(layer, pooling=args.pooling)  # raises where it lacks the layer
        models[name] = dataclasses.replace(model, module=None)
    model = next(iter(models.values()))
    if not args.config and not any(names_data(text) for text in overrides):
        from sacjax.inference import comparison

        model = comparison.with_own_data(models, args.stage)
    return data_of(model, args.config, args.stage, overrides)


def print_results(about: dict[str, Any], results: "dict[str, Probed]") -> None:
    """Prints what was probed and the table: of one checkpoint, or of several."""
    clips = (
        f"{about['train_clips']} training and {about['test_clips']} test clips of "
        f"{about['classes']} classes; vectors of"
    )
    sizes = list(dict.fromkeys(str(one.vectors.shape[1]) for one in results.values()))
    print(clips, ", ".join(sizes))
    if len(results) == 1:
        print(show(next(iter(results.values())).scores, about["neighbours"]))
    else:
        print(compare(results, about["neighbours"]))


def as_json(
    about: dict[str, Any], results: "dict[str, Probed]", names: dict[str, str]
) -> dict[str, Any]:
    """Returns what `--output` writes.

    It is {'about', 'trained', and perhaps 'random'} of one checkpoint; of several it is {'about',
    'checkpoints': {name: {'checkpoint': its path, 'features', 'trained', 'random'}}}.
    """
    if len(results) == 1:
        (one,) = results.values()
        return {"about": about, **one.scores}
    entries = {
        name: {"checkpoint": names[name], "features": one.vectors.shape[1], **one.scores}
        for name, one in results.items()
    }
    return {"about": about, "checkpoints": entries}


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes results as JSON, in a folder that is made. Raises UserError where it cannot be."""
    check_writable(path, "--output")
    write_json(path, results, indent=1)
