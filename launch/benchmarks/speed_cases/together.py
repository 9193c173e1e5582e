"""(j) Five folds × three seeds of a small network: one compilation, beside a process a run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import soundfile

from launch.benchmarks.speed_cases.case import ROOT, SMALL, Case, Run, Sizes
from launch.benchmarks.speed_cases.input_pipeline import data_config
from sacjax.data import sources

CLIPS, FOLDS = 200, 5
CONFIG = """from sacjax import config


def get_config():
    c = config.default()
    s = c.supervised
    s.data.source, s.data.path = "manifest", {path!r}
    s.data.sample_rate, s.data.seconds, s.data.cache = 8000, 1.0, True
    s.data.validation_fraction = 0.0
    s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 128, 48
    s.augment.waveform = (dict(name="gain"),)
    s.augment.spectrogram = (dict(name="mixup", alpha=1.0),)
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=16, stem="small", stem_stride=2)
    s.train.batch_size, s.train.steps = 32, {steps}
    s.train.evaluate_every = 10**6
    s.eval.splits = ("test",)
    return c
"""


def write(folder: Path, steps: int) -> Path:
    """Writes synthesized clips, a manifest with folds and a config; returns the config."""
    data = data_config("synthetic", folder, 1.0)
    data.examples, data.sample_rate = CLIPS, 8000
    recordings = sources.load(data)
    rows = ["filename,label,fold"]
    for k in range(CLIPS):
        clip = recordings.open(k).read(0, 8000)
        soundfile.write(folder / f"{k}.wav", clip, 8000, subtype="PCM_16")
        labels = recordings.labels[k] or ()
        rows.append(f"{k}.wav,{labels[0]},{1 + k // 20 % FOLDS}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.py").write_text(CONFIG.format(path=str(folder / "list.csv"), steps=steps))
    return folder / "config.py"


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case; each side begins with an empty compilation cache, which its runs share."""
    small = sizes == SMALL
    which = ["--folds", "1", "2", "--seeds", "0"] if small else []
    with tempfile.TemporaryDirectory() as name:
        config = write(Path(name), 2 if small else 100)

        def side(*flags: str) -> Run:
            def run() -> None:
                with tempfile.TemporaryDirectory() as output:
                    script = str(ROOT / "launch" / "benchmarks" / "kfold.py")
                    command = [sys.executable, script, "--config", str(config), *which, *flags]
                    own = {"JAX_COMPILATION_CACHE_DIR": str(Path(output) / "cache")}
                    subprocess.run(
                        [*command, "--output", str(Path(output) / "runs")],
                        env=os.environ | own,
                        check=True,
                        capture_output=True,
                    )

            return run

        what = f"{2 if small else 3 * FOLDS} runs of a ResNet-18 of width 16, kfold.py --together"
        peers = {"a process each": side()}
        yield Case(what, side("--together"), peers, {"a process each": 1.0})
