"""The picture of docs/explain.md: a dog's bark in the rain, and what a network hears of it.

    python -m sacjax.main --config configs/esc50/resnet.py:esc10,fold=1 --workdir runs/explain \\
        --config.supervised.train.epochs=20 --config.supervised.data.sample_rate=16000 \\
        --config.supervised.frontend.n_fft=1024 --config.supervised.frontend.hop_length=512 \\
        --config.supervised.frontend.n_mels=64 --config.supervised.frontend.normalize=clip \\
        --config.supervised.model.encoder.width=16
    python launch/benchmarks/explain_example.py --checkpoint runs/explain --output docs/explain.jpg

Both clips are of the fold that the network has not heard. The training takes two minutes of a core.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from PIL import Image

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from sacjax.commands import explain

RAIN, DOG = "1-21189-A-10.ogg", "1-30344-A-0.ogg"
AT, BARK = 3.0, 0.5  # seconds: where the bark begins, and how long it is


def mix(folder: Path, sample_rate: int = 16000) -> np.ndarray:
    """Returns five seconds of rain with the loudest half second of the dog in it, float32 [n]."""
    rain, dog = (read(folder / name, sample_rate) for name in (RAIN, DOG))
    size = round(BARK * sample_rate)
    energy = np.convolve(dog**2, np.ones(size), "valid")
    bark = dog[energy.argmax() :][:size] * np.hanning(size) ** 0.25
    begin = round(AT * sample_rate)
    mixed = 0.03 * rain / np.abs(rain).max()
    mixed[begin : begin + size] += 0.6 * bark / np.abs(bark).max()
    return mixed.astype(np.float32)


def read(path: Path, sample_rate: int) -> np.ndarray:
    """Returns the five seconds of a clip at a rate."""
    samples, rate = sf.read(path, dtype="float32")
    return soxr.resample(samples, rate, sample_rate)[: 5 * sample_rate]


def main(argv: list[str] | None = None) -> int:
    """Mixes, explains, and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR")
    parser.add_argument("--output", required=True, metavar="FILE.jpg")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("SACJAX_DATA", "../shared/data")) / "esc10" / "audio"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bark_in_rain.wav"
        sf.write(path, mix(data), 16000)
        flags = ["--checkpoint", args.checkpoint, "--output", folder, "--label", "dog"]
        code = explain.main([*flags, str(path)])
        Image.open(path.with_suffix(".png")).convert("RGB").save(args.output, quality=88)
    return code


if __name__ == "__main__":
    sys.exit(main())
