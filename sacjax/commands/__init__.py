"""The console script `sacjax`: one thin file a command, from flags to a call of the library."""

import importlib
import sys

from sacjax import errors

COMMANDS = {
    "train": "train and evaluate a config's stages, or evaluate a workdir (--mode=eval)",
    "predict": "label sound files and folders",
    "stream": "hear sound as it comes: events from a pipe, a file or a microphone",
    "explain": "which part of a sound makes its label: a picture, and the part to hear",
    "embed": "turn sounds into vectors of a trained encoder",
    "probe": "nearest neighbours, linear probe and few labels on a frozen encoder",
    "benchmark": "frozen encoders on a list of tasks, each by its protocol: one table",
    "inspect": "look at a data set before training on it",
    "prepare": "turn a data set into ArrayRecord shards",
    "plan": "will a step fit, how fast, on which mesh, without the hardware",
    "convert": "weights to and from transformers' folders",
    "export": "a trained model as a file that runs without sacjax",
    "lr-find": "sweep the learning rate",
    "list": "what there is: objectives, encoders, augmentations, sources, evaluators, configs",
}


def console(argv: list[str] | None = None) -> None:
    """Runs `sacjax COMMAND …` and exits."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: sacjax COMMAND …; sacjax COMMAND --help tells its flags\n")
        print("\n".join(f"  {command:9s} {meaning}" for command, meaning in COMMANDS.items()))
        sys.exit(0)
    if name == "--version":
        from importlib.metadata import version

        print(version("sacjax"))
        sys.exit(0)
    errors.run(lambda: _main(name)(argv[1:]))


def _main(name: str):  # type: ignore[no-untyped-def]
    if name not in COMMANDS:
        raise errors.UserError(f"there is no command '{name}'{errors.nearest(name, COMMANDS)}")
    return importlib.import_module(f"sacjax.commands.{name.replace('-', '_')}").main
