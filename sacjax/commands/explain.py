"""Shows which part of a sound makes a classifier's label: in a picture, and to hear.

    sacjax explain --checkpoint WORKDIR PATH… --output DIR [--method NAME …] [--label NAME]

Methods: integrated_gradients, grad_cam, occlusion, attention_rollout; by default all that are
defined for the encoder. For a file NAME.wav the folder DIR gets

    NAME.png          each method's map, drawn over the log-mel spectrogram
    NAME.METHOD.wav   the sound, with all but the important part attenuated
    NAME.METHOD.csv   the map: a row a frame, a column a band

and explanations.json has the label's probability of the sound, of its important part alone, and of
the rest alone; what an earlier run into DIR wrote of other files stays in it. A file longer than
the model's window is explained by the window that speaks most for the label; --start picks another.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sacjax import io
from sacjax.commands.predict import escape_bad_names
from sacjax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Parses flags, explains and writes; 1 where no file could be read."""
    parser = argparse.ArgumentParser(
        prog="sacjax explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR")
    parser.add_argument(
        "--which", choices=("best", "last"), help="default: what its config's eval.checkpoint says"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument(
        "--method", nargs="+", action="extend", default=[], metavar="NAME", help="default: all"
    )
    parser.add_argument("--label", default="", help="default: the most probable one")
    parser.add_argument("--start", type=float, help="seconds, where the window begins")
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        help="of what speaks for the label, which the important part holds (default: 0.5)",
    )
    parser.add_argument(
        "--attenuation",
        type=float,
        default=30.0,
        metavar="DB",
        help="by which the rest is quieter in the sound (default: 30)",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound file or folder")
    args = parser.parse_args(argv)
    escape_bad_names()
    from sacjax import compilation, inference
    from sacjax.data.retry import BadClip
    from sacjax.explain import Explainer
    from sacjax.inference.sounds import as_recordings, find_files

    compilation.start()
    files = find_files(args.paths)
    model = inference.load_classifier(args.checkpoint, args.which)
    explainer = Explainer(model, args.method, args.share, args.attenuation)
    recordings = as_recordings(files, model.sample_rate, channel=model.channel)
    folder = io.to_path(args.output)
    io.check_folder(folder, "--output")
    kept, told = read_entries(folder / "explanations.json"), 0
    names = names_of(files, {file: entry["name"] for file, entry in kept.items()})
    try:
        for index, name in enumerate(names):
            try:
                explained = explainer(recordings, index, args.label, args.start)
            except BadClip as bad:
                print(f"skipped {files[index]}: {bad}", file=sys.stderr)
                continue
            entry = write(folder, name, files[index], explained, model.sample_rate)
            kept.pop(files[index], None)  # the newest are last
            kept[files[index]] = dict(checkpoint=args.checkpoint) | entry
            told += 1
            print("\n".join(lines_of(entry)))
    finally:
        if kept:  # also what was explained before Ctrl-C
            io.write_json(folder / "explanations.json", list(kept.values()), indent=1)
    return 0 if told else 1


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the entries of explanations.json by file; {} where there is none.

    Raises:
      UserError: it holds something else, which a run would overwrite.
    """
    if not path.is_file():
        return {}
    try:
        entries = {entry["file"]: entry for entry in json.load(io.read_text(path))}
        for entry, name in zip(entries.values(), names_of(list(entries)), strict=True):
            entry.setdefault("name", name)  # earlier versions did not write it
        if not all(isinstance(entry["name"], str) for entry in entries.values()):
            raise TypeError
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"--output {path.parent}: its {path.name} is not one that sacjax explain wrote; choose "
            "another folder"
        ) from error
    return entries


def names_of(files: list[str], earlier: dict[str, str] | None = None) -> list[str]:
    """Returns a name without its extension for each file; equal ones are numbered.

    No two names are equal: a number that makes another file's name is left out.

    Args:
      files: each once.
      earlier: {file: its name} of an earlier run, which it keeps.
    """
    earlier = earlier or {}
    often = Counter(Path(file).stem for file in files if file not in earlier)
    alone = {stem for stem, count in often.items() if count == 1} - set(earlier.values())
    taken, names = alone | set(earlier.values()), []
    for file in files:
        stem = Path(file).stem
        name = earlier.get(file, stem)
        if file not in earlier and stem not in alone:
            numbered = (f"{stem}_{k}" for k in itertools.count(1))
            name = next(name for name in numbered if name not in taken)
            taken.add(name)
        names.append(name)
    return names


def write(folder: Any, name: str, file: str, explained: Any, sample_rate: int) -> dict[str, Any]:
    """Writes the picture, sounds and tables of a file; returns its entry of explanations.json."""
    from sacjax.explain import METHODS
    from sacjax.explain.maps import Transform
    from sacjax.explain.picture import draw
    from sacjax.report.html import wav
    from sacjax.report.plots import png

    entry: dict[str, Any] = dict(
        file=file,
        name=name,
        label=explained.label,
        probability=explained.probability,
        start=explained.start,
        methods={},
    )
    maps = {}
    for method, found in explained.methods.items():
        maps[method_title(METHODS[method], found)] = found.map
        io.write_bytes(folder / f"{name}.{method}.wav", wav(found.sound, sample_rate))
        header, *rows = table_of(found.map, explained.start)
        io.write_csv(folder / f"{name}.{method}.csv", header, rows)
        entry["methods"][method] = dict(important=found.important, rest=found.rest, **found.figures)
    shown = Path(file).name.encode(errors="backslashreplace").decode()  # of any bytes
    title = f"{shown}: {explained.label} {100 * explained.probability:.1f} %"
    figure = draw(title, explained.samples, Transform.at(sample_rate), maps, explained.start)
    io.write_bytes(folder / f"{name}.png", png(figure))
    return entry


def method_title(name: str, found: Any) -> str:
    """Returns a method's name, and how probable the label is of what it points to."""
    if not found.map.values.max() > 0:
        return f"{name}: nothing speaks for the label"
    return (
        f"{name}: the important part alone {100 * found.important:.1f} %, "
        f"the rest alone {100 * found.rest:.1f} %"
    )


def table_of(map_: Any, start: float) -> list[list[str]]:
    """Returns a map as a heading, and a row a frame: its time, and the value of each band."""
    bands = [f"{hertz:.0f} Hz" for hertz in map_.grid.hertz]
    rows = [["seconds", *(bands if len(bands) > 1 else ["all"])]]
    for time, values in zip(map_.grid.times, map_.values, strict=True):
        rows.append([f"{start + time:.4f}", *(f"{value:.6g}" for value in values)])
    return rows


def lines_of(entry: dict[str, Any]) -> list[str]:
    """Returns what the console says of a file."""
    lines = [f"{entry['file']}  {entry['label']} {100 * entry['probability']:.1f} %"]
    for method, figures in entry["methods"].items():
        lines.append(
            f"  {method:20s}  the important part alone {100 * figures['important']:5.1f} %, "
            f"the rest alone {100 * figures['rest']:5.1f} %"
        )
    return lines
