"""Small audio and small experiments for tests."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import soundfile as sf

# Shapes in signatures are checked at run time in the tests, before anything imports the modules.
SHAPED = (
    "sacjax.augment",
    "sacjax.frontend",
    "sacjax.layers",
    "sacjax.models",
    "sacjax.objectives",
)
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent

if (
    "JAX_COMPILATION_CACHE_DIR" not in os.environ
):  # one for all tests and their processes, and not the user's
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sacjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = (
        "0"  # also small programs, which many tests share
    )

# LLVM's optimizations take longer than they save on experiments of seconds.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"


@pytest.fixture
def clean_environment():
    """The environment without what chooses a compilation cache, for processes that import sacjax."""
    kept = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def folder_of_sounds(tmp_path):
    """DIR/<label>/*.wav: low and high tones, 12 clips each, 0.5 s at 8 kHz, easily told apart."""
    root = tmp_path / "sounds"
    rng = np.random.default_rng(0)
    time = np.arange(4000) / 8000
    for label, low, high in (("high", 1500, 3000), ("low", 100, 600)):
        (root / label).mkdir(parents=True)
        for k in range(12):
            tone = 0.4 * np.sin(
                2 * np.pi * rng.uniform(low, high) * time
            ) + 0.02 * rng.standard_normal(4000)
            sf.write(root / label / f"{label}{k:02d}.wav", tone, 8000)
    return root


@pytest.fixture
def small_overrides(folder_of_sounds):
    """Overrides that make configs/folder.py an experiment of seconds on `folder_of_sounds`."""
    return [
        f"--config.supervised.data.path={folder_of_sounds}",
        "--config.supervised.data.sample_rate=8000",
        "--config.supervised.data.seconds=0.5",
        "--config.supervised.frontend.n_fft=256",
        "--config.supervised.frontend.hop_length=128",
        "--config.supervised.frontend.n_mels=16",
        "--config.supervised.model.name=small_cnn",
        "--config.supervised.model.encoder={}",
        "--config.supervised.train.batch_size=8",
        "--config.supervised.train.steps=12",
        "--config.supervised.train.log_every=5",
        "--config.supervised.train.evaluate_every=6",
        "--config.supervised.eval.batch_size=8",
    ]


@pytest.fixture
def real_data():
    """The folder with ESC-10 and FSDD; skips where there is none."""
    root = Path(os.environ.get("SACJAX_DATA", ROOT.parent / "shared" / "data"))
    if not (root / "esc10").is_dir():
        pytest.skip(f"needs the real recordings: no folder {root}/esc10; set SACJAX_DATA")
    return root
