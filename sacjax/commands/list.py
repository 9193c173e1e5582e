"""Lists what there is, a name and a line each, from docstrings.

sacjax list [objectives|encoders|frontends|augmentations|sources|evaluators|configs]
"""

import argparse
import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Lines = dict[str, str]


def first_sentence(text: str | None) -> str:
    """Returns the first line of a docstring."""
    return (text or "").strip().split("\n", 1)[0]


def of_docstrings(registry: Mapping[str, Any]) -> Lines:
    """Returns {name: first line of its docstring} of a registry."""
    return {name: first_sentence(thing.__doc__) for name, thing in registry.items()}


def objectives() -> Lines:
    """Returns the objectives, by `objective.name`."""
    from sacjax.objectives import OBJECTIVES

    return of_docstrings(OBJECTIVES)


def encoders() -> Lines:
    """Returns the encoders, by `model.name`."""
    from sacjax.models import ENCODERS

    return of_docstrings(ENCODERS)


def frontends() -> Lines:
    """Returns the front ends, by `model.frontend`."""
    from sacjax.frontend.learnable import FRONT_ENDS

    mel = "Log-mel or MFCC of `frontend`, without parameters; encoders of waveforms use none."
    return {"mel": mel} | of_docstrings(FRONT_ENDS)


def augmentations() -> Lines:
    """Returns the augmentations, by their `name` in `augment.waveform` or `augment.spectrogram`."""
    from sacjax.augment import ATTACKS, CLIP, MIXING

    found = {f"{name} ({kind})": f for kind, table in CLIP.items() for name, f in table.items()}
    return of_docstrings(found | {f"{name} (both)": f for name, f in (MIXING | ATTACKS).items()})


def sources() -> Lines:
    """Returns the sources of recordings, by `data.source`."""
    from sacjax.data.sources import SOURCES

    return of_docstrings(SOURCES)


def evaluators() -> Lines:
    """Returns the evaluators, by their `name` in `eval.evaluators`."""
    from sacjax.evaluators import EVALUATORS

    return of_docstrings(EVALUATORS)


def configs() -> Lines:
    """Returns the configs below `configs/` of the current folder."""
    found = {}
    for path in sorted(Path("configs").rglob("*.py")):
        found[str(path)] = first_sentence(ast.get_docstring(ast.parse(path.read_text())))
    return found


KINDS: dict[str, Callable[[], Lines]] = {
    "objectives": objectives,
    "encoders": encoders,
    "frontends": frontends,
    "augmentations": augmentations,
    "sources": sources,
    "evaluators": evaluators,
    "configs": configs,
}


def main(argv: list[str] | None = None) -> int:
    """Parses flags and prints."""
    parser = argparse.ArgumentParser(
        prog="sacjax list",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", nargs="?", choices=tuple(KINDS), help="default: all of them")
    args = parser.parse_args(argv)
    for kind in [args.kind] if args.kind else KINDS:
        lines = KINDS[kind]()
        width = max(map(len, lines), default=0)
        print("" if args.kind else f"{kind}:")
        for name, meaning in lines.items():
            print(f"  {name:{width}s}  {meaning}")
        if kind == "configs" and not lines:
            print("  none: the current folder has no configs/, as a checkout of sacjax does")
    return 0
