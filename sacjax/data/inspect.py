"""What a data set is like: formats, levels, damage, duplicates, and groups that leak."""

import collections
import csv
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sacjax.data import decode, labels, retry, splits
from sacjax.data.recordings import Clip, Recordings
from sacjax.errors import UserError

PARTS = splits.PARTS
SILENT = 10 ** (-60 / 20)  # a clip that never exceeds -60 dB of full scale
BLOCK = 1 << 19  # samples a channel that are in memory at once
SHOWN = 5  # files, or groups, of each problem that the text names


@dataclasses.dataclass
class ClipFacts:
    """What one recording is like; only `error` where it cannot be read."""

    error: str = ""
    sample_rate: int = 0  # Hz
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
        for pcm in _blocks(clip):
            digest.update(pcm.tobytes())
            x = np.abs(pcm.astype(np.float32)) / 32768
            full = x >= 32766 / 32768
            clipped += int((full[2:] & full[1:-1] & full[:-2]).sum())
            facts.peak, facts.channels = max(facts.peak, float(x.max())), pcm.shape[1]
            energy, count = energy + float(np.square(x, dtype=np.float64).sum()), count + len(pcm)
        if not count:
            raise ValueError("it has no samples")
    except Exception as error:  # whatever a broken file does to a decoder
        retry.raise_fault(error)
        return ClipFacts(error=" ".join(f"{type(error).__name__}: {error}".split()))
    total = count * facts.channels
    facts.sample_rate, facts.seconds = clip.sample_rate, count / clip.sample_rate
    facts.missing = max(clip.num_samples - count, 0) / clip.sample_rate
    facts.rms, facts.clipped = (energy / total) ** 0.5, clipped / total
    facts.digest = digest.hexdigest()
    return facts


def _blocks(clip: Clip) -> Iterator[np.ndarray]:
    """Yields a clip as int16 [n, channels]. Raises ValueError for samples that are not finite."""
    position, size = 0, BLOCK
    while size == BLOCK:
        x = clip.read(position, BLOCK)
        size, position = len(x), position + len(x)
        if not np.isfinite(x).all():
            raise ValueError("samples that are not finite")
        if size:
            yield decode.to_int16(x)


@dataclasses.dataclass
class Summary:
    """What was found. Lists hold indices of recordings."""

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
    # {'splits' | 'official splits' | 'official folds': {group: where it is}}
    leaking: dict[str, dict[str, list[str]]]


def summarize(recordings: Recordings, data: ConfigDict, workers: int = 4) -> Summary:
    """Reads every recording, in `workers` threads, and returns what was found.

    Splits are those that training with this data config has.
    """
    parts, split_error = _parts(recordings, data)
    with ThreadPoolExecutor(workers) as pool:  # libsndfile lets other threads run
        read = pool.map(lambda i: clip_facts(recordings, i), range(len(recordings)))
        facts = list(tqdm(read, total=len(recordings), unit="clip", desc="reading", leave=False))
    same = duplicates([fact.digest for fact in facts])
    homes = {
        "splits": parts,
        "official splits": recordings.splits,
        "official folds": recordings.folds,
    }
    return Summary(
        facts=facts,
        parts=parts,
        split_error=split_error,
        unreadable=[i for i, f in enumerate(facts) if f.error],
        cut=[i for i, f in enumerate(facts) if f.missing > max(0.1, 0.01 * f.seconds)],
        silent=[i for i, f in enumerate(facts) if not f.error and f.peak < SILENT],
        clipped=[i for i, f in enumerate(facts) if f.clipped > 0],
        duplicates=same,
        crossing=[group for group in same if len({parts[i] for i in group} - {""}) > 1],
        relabelled=[group for group in same if len({recordings.labels[i] for i in group}) > 1],
        leaking={
            what: leaks(recordings.groups, home)
            for what, home in homes.items()
            if recordings.groups is not None and home is not None
        },
    )


def _parts(recordings: Recordings, data: ConfigDict) -> tuple[list[str], str]:
    """Returns ([part of each recording, '' for none], why there are no parts or '')."""
    parts = [""] * len(recordings)
    try:
        for part, indices in splits.split(recordings, data).items():
            for i in indices:
                parts[int(i)] = part
    except (UserError, ValueError) as error:  # such as groups that leak, which are shown below
        return parts, str(error)
    return parts, ""


def duplicates(digests: Sequence[str]) -> list[list[int]]:
    """Returns lists of the indices with equal digests, in order; '' equals no other."""
    same = collections.defaultdict(list)
    for i, digest in enumerate(digests):
        if digest:
            same[digest].append(i)
    return [indices for indices in same.values() if len(indices) > 1]


def leaks(groups: Sequence[str], homes: Sequence[str | int]) -> dict[str, list[str]]:
    """Returns {group: its homes} of groups with several homes. '' is no group, and no home."""
    where = collections.defaultdict(set)
    for group, home in zip(groups, homes, strict=True):
        if group and home != "":
            where[group].add(str(home))
    return {group: sorted(found) for group, found in where.items() if len(found) > 1}


def class_counts(recordings: Recordings, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns {part: int [classes]}; a recording with several labels counts in each."""
    home = np.asarray(parts, object)
    return {
        part: labels.class_counts(recordings, np.flatnonzero(home == part)) for part in (*PARTS, "")
    }


def report(recordings: Recordings, summary: Summary) -> str:
    """Returns the findings as text."""
    return "\n".join(
        [
            *_overview(recordings, summary),
            *_class_table(recordings, summary),
            *_formats([fact for fact in summary.facts if not fact.error]),
            *_problems(recordings, summary),
        ]
    )


def _overview(recordings: Recordings, summary: Summary) -> Iterator[str]:
    minutes = sum(fact.seconds for fact in summary.facts) / 60
    classes = len(recordings.class_names)
    yield f"{len(recordings)} recordings, {minutes:.1f} min, {classes} classes"
    sizes = collections.Counter(summary.parts)
    unused = f", unused {sizes['']}" * bool(sizes[""])
    yield "splits: " + ", ".join(f"{part} {sizes[part]}" for part in PARTS) + unused
    if summary.split_error:
        yield f"there are no splits: {summary.split_error}"
    unknown = sum(found is None for found in recordings.labels)
    if unknown:
        yield f"without a label: {unknown}"
    none = sum(found is not None and not found for found in recordings.labels)
    if none:
        yield f"known to have none of the labels: {none}"
    if recordings.folds is not None:
        folds = sorted(collections.Counter(recordings.folds).items())
        yield "official folds: " + ", ".join(f"{k}: {n}" for k, n in folds)
    if recordings.splits is not None:
        official = sorted(collections.Counter(recordings.splits).items())
        yield "official splits: " + ", ".join(f"{k} {n}" for k, n in official)
    if recordings.groups is not None:
        alone = recordings.groups.count("")
        without = f", and {alone} recordings without one" * bool(alone)
        yield f"groups: {len(set(recordings.groups) - {''})}{without}"


def _class_table(recordings: Recordings, summary: Summary) -> Iterator[str]:
    if not recordings.class_names:
        return
    counts = class_counts(recordings, summary.parts)
    width = max(len("class"), *map(len, recordings.class_names))
    yield f"\n{'class':<{width}} {'train':>8} {'valid.':>8} {'test':>8} {'all':>8}"
    for k, name in enumerate(recordings.class_names):
        row = [counts[part][k] for part in PARTS] + [sum(c[k] for c in counts.values())]
        yield f"{name:<{width}} " + " ".join(f"{n:8d}" for n in row)


def _formats(good: Sequence[ClipFacts]) -> Iterator[str]:
    low, middle, high = np.percentile([fact.seconds for fact in good] or [0.0], [0, 50, 100])
    yield f"\nseconds: shortest {low:.2f}, median {middle:.2f}, longest {high:.2f}"
    for what, key in (("sample rates", "sample_rate"), ("channels", "channels")):
        numbers = sorted(collections.Counter(getattr(fact, key) for fact in good).items())
        yield f"{what}: " + ", ".join(f"{k} ({n})" for k, n in numbers)
    if good:
        levels = 20 * np.log10(np.maximum([fact.rms for fact in good], 1e-10))
        low, middle, high = np.percentile(levels, [5, 50, 95])
        spread = f"5 % {low:.1f}, median {middle:.1f}, 95 % {high:.1f}"
        yield f"level (RMS, dB of full scale): {spread}"


def _problems(recordings: Recordings, summary: Summary) -> Iterator[str]:
    names, parts = recordings.names, summary.parts
    for what, indices in (
        ("unreadable", summary.unreadable),
        ("cut short (the header tells of more)", summary.cut),
        ("silent (never above -60 dB)", summary.silent),
        ("clipped (three samples or more in a row at full scale)", summary.clipped),
    ):
        yield f"{what}: {len(indices)}"
        for i in indices[:SHOWN]:
            error = summary.facts[i].error
            yield f"  {names[i]}" + (f": {error}" if error else "")
        if len(indices) > SHOWN:
            yield "  …"
    for what, groups in (
        ("duplicates (equal samples)", summary.duplicates),
        ("duplicates across splits", summary.crossing),
        ("duplicates with different labels", summary.relabelled),
    ):
        yield f"{what}: {len(groups)}"
        for group in groups[:SHOWN]:
            yield "  " + " = ".join(f"{names[i]} [{parts[i] or 'unused'}]" for i in group[:4])
    for what, found in summary.leaking.items():
        yield f"groups that leak across {what}: {len(found)}"
        for name, homes in list(found.items())[:SHOWN]:
            yield f"  {name}: {', '.join(homes)}"


def write_problems(path: Path, recordings: Recordings, summary: Summary) -> None:
    """Writes a CSV (file, problem, detail) with a row for each file and problem."""
    names, facts = recordings.names, summary.facts
    rows = [[names[i], "unreadable", facts[i].error] for i in summary.unreadable]
    rows += [[names[i], "cut short", f"{facts[i].missing:.2f} s are missing"] for i in summary.cut]
    rows += [[names[i], "silent", f"peak {facts[i].peak:.2g}"] for i in summary.silent]
    rows += [[names[i], "clipped", f"{facts[i].clipped:.3%} of samples"] for i in summary.clipped]
    crossing = {group[0] for group in summary.crossing}
    for group in summary.duplicates:
        what = "duplicate across splits" if group[0] in crossing else "duplicate"
        rows += [[names[i], what, f"of {names[j]}"] for i, j in zip(group[1:], group, strict=False)]
    rows += _leak_rows(summary.leaking)
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([["file", "problem", "detail"], *rows])


def _leak_rows(leaking: Mapping[str, Mapping[str, Sequence[str]]]) -> list[list[str]]:
    return [
        [group, f"group leaks across {what}", ", ".join(homes)]
        for what, groups in leaking.items()
        for group, homes in groups.items()
    ]
