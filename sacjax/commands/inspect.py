"""Shows the shape of a data set before anything is trained on it.

    python -m sacjax.inspect --config FILE[:ARG] [--config.STAGE.data.key=value] [--output DIR] [--augment]
    python -m sacjax.inspect --folder DIR | --manifest FILE [--output DIR]

Prints class counts by split, durations, sample rates, channels, clipping, silence, unreadable files and those cut short, duplicates (equal decoded
PCM) within and across splits, and groups that leak across splits. With `--output` it draws them (PNG) and lists each problem's
files in `problems.csv`; with `--augment` it also draws each augmentation of the config before and after.
"""

import argparse
import collections
import csv
import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

from sacjax import errors
from sacjax.commands.prepare import add_source_flags, stage_from_flags
from sacjax.data import decode, retry, sources, splits
from sacjax.data.prepare import pcm_blocks
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

PARTS = ("train", "validation", "test")
SILENT = 10 ** (-60 / 20)  # a clip that never exceeds -60 dB of full scale
COLOURS = {"train": "#4c72b0", "validation": "#dd8452", "test": "#55a868"}


@dataclasses.dataclass
class ClipFacts:
    """What one recording is like; only `error` where it cannot be read."""

    error: str = ""
    sample_rate: int = 0
    channels: int = 0
    seconds: float = 0.0
    peak: float = 0.0  # of full scale
    rms: float = 0.0
    clipped: float = 0.0  # share of samples in runs of three or more at full scale
    digest: str = ""  # of the decoded PCM16
    missing: float = 0.0  # seconds that the header tells of and that are not there


def clip_facts(recordings: Recordings, i: int) -> ClipFacts:
    """Reads recording i to its end, a block at a time."""
    facts, digest, count, energy, clipped = ClipFacts(), hashlib.sha256(), 0, 0.0, 0
    try:
        clip = recordings.open(i)
        for pcm in pcm_blocks(clip):
            digest.update(pcm.tobytes())
            x = np.abs(pcm.astype(np.float32)) / 32768
            full = x >= 32766 / 32768
            clipped += int((full[2:] & full[1:-1] & full[:-2]).sum())
            facts.peak, facts.channels = max(facts.peak, float(x.max())), pcm.shape[1]
            energy, count = energy + float(np.square(x, dtype=np.float64).sum()), count + len(pcm)
        if not count:
            raise ValueError("it has no samples")
    except Exception as error:
        retry.raise_fault(error)
        return ClipFacts(error=" ".join(f"{type(error).__name__}: {error}".split()))
    total = count * facts.channels
    facts.sample_rate, facts.seconds = clip.sample_rate, count / clip.sample_rate
    facts.missing = max(clip.num_samples - count, 0) / clip.sample_rate
    facts.rms, facts.clipped, facts.digest = (
        (energy / total) ** 0.5,
        clipped / total,
        digest.hexdigest(),
    )
    return facts


@dataclasses.dataclass
class Summary:
    """What `inspect` found. Lists hold places in the recordings."""

    facts: list[ClipFacts]
    parts: list[str]  # of each recording; '' where it is in none
    split_error: str  # why there are no parts, '' where there are
    unreadable: list[int]
    cut: list[int]  # they lack more than an estimate's error of what their headers tell of
    silent: list[int]
    clipped: list[int]
    duplicates: list[list[int]]  # recordings with equal samples
    crossing: list[list[int]]  # those of them that are in several parts
    relabelled: list[list[int]]  # those of them with different labels
    leaking: dict[
        str, dict[str, list[str]]
    ]  # {'splits' | 'official splits' | 'official folds': {group: where it is}}


def summarize(recordings: Recordings, data: ConfigDict, workers: int = 4) -> Summary:
    """Reads every recording and returns what was found; splits are those that training with this data config has."""
    parts, split_error = [""] * len(recordings), ""
    try:
        for part, indices in splits.split(recordings, data).items():
            for i in indices:
                parts[int(i)] = part
    except (
        UserError,
        ValueError,
    ) as error:  # such as groups that leak: what this command is there to show
        split_error = str(error)
    with ThreadPoolExecutor(workers) as pool:  # libsndfile lets other threads run
        read = pool.map(lambda i: clip_facts(recordings, i), range(len(recordings)))
        facts = list(tqdm(read, total=len(recordings), unit="clip", desc="reading", leave=False))
    same = collections.defaultdict(list)
    for i, fact in enumerate(facts):
        if fact.digest:
            same[fact.digest].append(i)
    duplicates = [group for group in same.values() if len(group) > 1]
    leaking = {}
    homes = {
        "splits": parts,
        "official splits": recordings.splits,
        "official folds": recordings.folds,
    }
    for what, home in homes.items():
        if recordings.groups is not None and home is not None:
            where = collections.defaultdict(set)
            for group, place in zip(recordings.groups, home, strict=True):
                if place != "":
                    where[group].add(str(place))
            leaking[what] = {
                group: sorted(places) for group, places in where.items() if len(places) > 1
            }
    return Summary(
        facts=facts,
        parts=parts,
        split_error=split_error,
        unreadable=[i for i, f in enumerate(facts) if f.error],
        cut=[i for i, f in enumerate(facts) if f.missing > max(0.1, 0.01 * f.seconds)],
        silent=[i for i, f in enumerate(facts) if not f.error and f.peak < SILENT],
        clipped=[i for i, f in enumerate(facts) if f.clipped > 0],
        duplicates=duplicates,
        crossing=[group for group in duplicates if len({parts[i] for i in group} - {""}) > 1],
        relabelled=[
            group for group in duplicates if len({recordings.labels[i] for i in group}) > 1
        ],
        leaking=leaking,
    )


def class_counts(recordings: Recordings, parts: list[str]) -> dict[str, np.ndarray]:
    """Returns {part: int [classes]}; a recording with several labels counts in each."""
    place = {name: k for k, name in enumerate(recordings.class_names)}
    counts = {part: np.zeros(len(place), int) for part in (*PARTS, "")}
    for labels, part in zip(recordings.labels, parts, strict=True):
        for label in labels:
            counts[part][place[label]] += 1
    return counts


def report(recordings: Recordings, summary: Summary) -> str:
    """Returns the findings as text."""
    good = [f for f in summary.facts if not f.error]
    seconds = np.array([f.seconds for f in good]) if good else np.zeros(1)
    sizes = collections.Counter(summary.parts)
    lines = [
        f"{len(recordings)} recordings, {seconds.sum() / 60:.1f} min, {len(recordings.class_names)} classes"
    ]
    lines.append(
        "splits: "
        + ", ".join(f"{part} {sizes[part]}" for part in PARTS)
        + f", unused {sizes['']}" * bool(sizes[""])
    )
    lines += [f"there are no splits: {summary.split_error}"] if summary.split_error else []
    unlabelled = sum(not labels for labels in recordings.labels)
    lines += [f"without a label: {unlabelled}"] if unlabelled else []
    if recordings.folds is not None:
        folds = sorted(collections.Counter(recordings.folds).items())
        lines.append("official folds: " + ", ".join(f"{k}: {n}" for k, n in folds))
    if recordings.splits is not None:
        lines.append(
            "official splits: "
            + ", ".join(
                f"{k} {n}" for k, n in sorted(collections.Counter(recordings.splits).items())
            )
        )
    if recordings.groups is not None:
        lines.append(f"groups: {len(set(recordings.groups))}")
    counts = class_counts(recordings, summary.parts)
    if recordings.class_names:
        width = max(len("class"), *map(len, recordings.class_names))
        lines.append(f"\n{'class':<{width}} {'train':>8} {'valid.':>8} {'test':>8} {'all':>8}")
        for k, name in enumerate(recordings.class_names):
            row = [counts[part][k] for part in PARTS] + [sum(c[k] for c in counts.values())]
            lines.append(f"{name:<{width}} " + " ".join(f"{n:8d}" for n in row))
    low, middle, high = np.percentile(seconds, [0, 50, 100])
    lines.append(f"\nseconds: shortest {low:.2f}, median {middle:.2f}, longest {high:.2f}")
    for what, key in (("sample rates", "sample_rate"), ("channels", "channels")):
        numbers = sorted(collections.Counter(getattr(f, key) for f in good).items())
        lines.append(f"{what}: " + ", ".join(f"{k} ({n})" for k, n in numbers))
    if good:
        levels = 20 * np.log10(np.maximum([f.rms for f in good], 1e-10))
        low, middle, high = np.percentile(levels, [5, 50, 95])
        lines.append(
            f"level (RMS, dB of full scale): 5 % {low:.1f}, median {middle:.1f}, 95 % {high:.1f}"
        )

    def found(what: str, places: list[int], reason: bool = False) -> None:
        lines.append(f"{what}: {len(places)}")
        for i in places[:5]:
            lines.append(
                f"  {recordings.names[i]}" + (f": {summary.facts[i].error}" if reason else "")
            )
        lines.extend(["  …"] if len(places) > 5 else [])

    found("unreadable", summary.unreadable, reason=True)
    found("cut short (the header tells of more)", summary.cut)
    found("silent (never above -60 dB)", summary.silent)
    found("clipped (three samples or more in a row at full scale)", summary.clipped)
    for what, groups in (
        ("duplicates (equal samples)", summary.duplicates),
        ("duplicates across splits", summary.crossing),
        ("duplicates with different labels", summary.relabelled),
    ):
        lines.append(f"{what}: {len(groups)}")
        lines += [
            "  "
            + " = ".join(f"{recordings.names[i]} [{summary.parts[i] or 'unused'}]" for i in g[:4])
            for g in groups[:5]
        ]
    for what, leaks in summary.leaking.items():
        lines.append(f"groups that leak across {what}: {len(leaks)}")
        lines += [f"  {group}: {', '.join(places)}" for group, places in list(leaks.items())[:5]]
    return "\n".join(lines)


def write_problems(path: Path, recordings: Recordings, summary: Summary) -> None:
    """Writes a CSV (file, problem, detail) with a row for each file and problem."""
    names, facts = recordings.names, summary.facts
    rows = [[names[i], "unreadable", facts[i].error] for i in summary.unreadable]
    rows += [[names[i], "cut short", f"{facts[i].missing:.2f} s are missing"] for i in summary.cut]
    rows += [[names[i], "silent", f"peak {facts[i].peak:.2g}"] for i in summary.silent]
    rows += [[names[i], "clipped", f"{facts[i].clipped:.3%} of samples"] for i in summary.clipped]
    for group in summary.duplicates:
        what = "duplicate across splits" if group in summary.crossing else "duplicate"
        rows += [[names[i], what, f"of {names[j]}"] for i, j in zip(group[1:], group, strict=False)]
    for what, groups in summary.leaking.items():
        rows += [
            [group, f"group leaks across {what}", ", ".join(places)]
            for group, places in groups.items()
        ]
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([["file", "problem", "detail"], *rows])


def plot(folder: Path, recordings: Recordings, summary: Summary) -> list[Path]:
    """Draws `classes.png`, `durations.png`, `formats.png` and `levels.png`; returns their paths."""
    good = [(f, part) for f, part in zip(summary.facts, summary.parts, strict=True) if not f.error]
    saved = []

    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / name, dpi=100)
        saved.append(folder / name)

    names = recordings.class_names
    if names:
        figure = Figure(figsize=(7, 1 + 0.22 * max(len(names), 8)), layout="constrained")
        axes, left = figure.subplots(), np.zeros(len(names), int)
        for part, counts in class_counts(recordings, summary.parts).items():
            if counts.any():
                axes.barh(
                    range(len(names)),
                    counts,
                    left=left,
                    color=COLOURS.get(part, "#999999"),
                    label=part or "unused",
                )
                left = left + counts
        axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("recordings")
        axes.legend()
        save(figure, "classes.png")
    if not good:
        return saved

    def histogram(axes: Any, values: list[float], label: str, log: bool = False) -> None:
        data = [
            [v for v, (_, part) in zip(values, good, strict=True) if part == p]
            for p in (*PARTS, "")
        ]
        low, high = min(values), max(values)
        bins = np.geomspace(low, high * 1.001, 31) if log else np.linspace(low, high + 1e-6, 31)
        colours = [COLOURS.get(p, "#999999") for p in (*PARTS, "")]
        axes.hist(data, bins=bins, stacked=True, color=colours, label=[*PARTS, "unused"])
        axes.set(xlabel=label, ylabel="recordings", xscale="log" if log else "linear")

    seconds = [f.seconds for f, _ in good]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    histogram(axes, seconds, "seconds", log=max(seconds) > 20 * min(seconds))
    axes.legend()
    save(figure, "durations.png")
    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("sample_rate", "channels"),
        ("sample rate (Hz)", "channels"),
        strict=True,
    ):
        found = sorted(collections.Counter(getattr(f, key) for f, _ in good).items())
        axes.bar(
            [str(value) for value, _ in found],
            [count for _, count in found],
            color=COLOURS["train"],
        )
        axes.set(xlabel=label, ylabel="recordings")
    save(figure, "formats.png")
    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("peak", "rms"), strict=True):
        levels = 20 * np.log10(np.maximum([getattr(f, key) for f, _ in good], 1e-5))
        histogram(axes, levels.tolist(), f"{key}, dB of full scale")
    save(figure, "levels.png")
    return saved


def plot_augmentations(
    folder: Path,
    recordings: Recordings,
    indices: list[int],
    stage: ConfigDict,
    seed: int = 0,
    count: int = 3,
) -> list[Path]:
    """Draws each augmentation of a stage's config, applied alone and always, before and after; returns the pictures' paths.

    `indices` are the recordings to choose from.

    Raises:
      UserError: fewer than two clips can be read.
    """
    import jax
    import jax.numpy as jnp

    from sacjax import augment
    from sacjax.frontend import make_frontend

    data = stage.data
    rng = np.random.default_rng(seed)
    crops: list[tuple[np.ndarray, int]] = []
    names: list[str] = []
    for i in rng.permutation(indices):
        try:
            crops.append(
                decode.read_crop(
                    recordings.open(int(i)),
                    data.sample_rate,
                    data.seconds,
                    data.crop,
                    data.pad,
                    rng,
                )
            )
            names.append(recordings.names[int(i)])
        except Exception:
            continue
        if len(crops) == count:
            break
    if len(crops) < 2:
        raise UserError("--augment: fewer than two recordings can be read")
    audio = jnp.asarray(np.stack([x for x, _ in crops]), jnp.float32)
    lengths = jnp.asarray([n for _, n in crops], jnp.int32)
    labels, mask = (
        jnp.eye(len(crops)),
        jnp.ones(len(crops)),
    )  # each clip a class of its own, so that mixing shows
    keys = jax.random.split(jax.random.key(seed), len(crops))
    frontend = make_frontend(stage.frontend, data.sample_rate)
    features, frames = frontend(audio, lengths)
    saved = []
    for kind, x, n in (("waveform", audio, lengths), ("spectrogram", features, frames)):
        for place, spec in enumerate(stage.augment[kind]):
            always = dict(spec) | {"probability": 1.0}
            after, after_n, mixed = augment.apply(
                (always,), keys, x, n, labels, mask, kind=kind, sample_rate=data.sample_rate  # type: ignore[arg-type]
            )  # fmt: skip
            pictures = [(x, n), (after, after_n)]
            if kind == "waveform":  # both are shown as sound and as the model sees them
                pictures = [(x, n), (after, after_n), (features, frames), frontend(after, after_n)]
            figure = Figure(figsize=(4.2 * len(crops), 1.8 * len(pictures)), layout="constrained")
            title = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
            figure.suptitle(f"{spec['name']} ({title})".replace("$", r"\$"))
            grid = figure.subplots(len(pictures), len(crops), squeeze=False)
            for r, (values, _) in enumerate(pictures):
                for c in range(len(crops)):
                    axes, value = grid[r][c], np.asarray(values[c])
                    if value.ndim == 1:
                        axes.plot(np.arange(len(value)) / data.sample_rate, value, linewidth=0.4)
                        axes.set_ylim(-1.05, 1.05)
                    else:
                        axes.imshow(
                            value.T,
                            origin="lower",
                            aspect="auto",
                            interpolation="nearest",
                            cmap="magma",
                        )
                    title = f"before: {names[c]}"[-60:]
                    if r % 2:  # a clip that others were mixed into shows their shares
                        shares = np.asarray(mixed[c])
                        title = (
                            "after, labels " + " ".join(f"{s:.2f}" for s in shares)
                            if (shares > 0.005).sum() > 1
                            else "after"
                        )
                    axes.set_title(title.replace("$", r"\$"), fontsize=8)
            path = folder / f"augment_{kind}_{place}_{spec['name']}.png"
            figure.savefig(path, dpi=80)
            saved.append(path)
    return saved


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        "sacjax.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source_flags(parser)
    parser.add_argument(
        "--output", default="", metavar="DIR", help="folder for pictures and problems.csv"
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="draw each augmentation of the config before and after",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="threads that read"
    )
    args, unknown = parser.parse_known_args(argv)
    stage = stage_from_flags(args, unknown)
    if args.augment and not args.output:
        raise UserError("--augment draws pictures: name a folder by --output")
    if args.augment and not stage.augment.waveform and not stage.augment.spectrogram:
        raise UserError(
            "--augment: the config's augment.waveform and augment.spectrogram are both empty"
        )
    folder = Path(args.output)
    if args.output:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {folder} cannot be written: {error}") from error
    recordings = sources.load(stage.data)
    summary = summarize(recordings, stage.data, max(args.workers, 1))
    print(report(recordings, summary))
    if args.output:
        write_problems(folder / "problems.csv", recordings, summary)
        saved = plot(folder, recordings, summary)
        if args.augment:
            train = [i for i, part in enumerate(summary.parts) if part == "train"] or list(
                range(len(recordings))
            )
            saved += plot_augmentations(folder, recordings, train, stage)
        print(f"\npictures and problems.csv: {folder}: {', '.join(path.name for path in saved)}")
    return 0


if __name__ == "__main__":
    errors.run(main)
