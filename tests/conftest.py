"""Small audio and small experiments for tests."""

import atexit
import contextlib
import fcntl
import gc
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

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
    "sacjax.views",
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

# LLVM's optimizations take longer than they save on experiments of seconds, XLA's newer way of
# writing fused operations compiles half as fast as its older one, and a program's parts are for
# cores that the other workers have.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK])
# NumPy's threads wait for each other in a busy loop, which a worker on each core makes long.
os.environ["OPENBLAS_NUM_THREADS"] = "1"


def pytest_collection_finish():
    """Lets garbage be looked for less often: tracing makes many objects, and hardly any cycle."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


@pytest.fixture
def clean_environment():
    """The environment without a compilation cache, for processes that import sacjax."""
    kept = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def write_tones(root):
    """Writes DIR/<label>/*.wav: 12 low and 12 high tones of 0.5 s at 8 kHz, easily told apart."""
    rng = np.random.default_rng(0)
    time = np.arange(4000) / 8000
    for label, low, high in (("high", 1500, 3000), ("low", 100, 600)):
        (root / label).mkdir(parents=True)
        for k in range(12):
            tone = 0.4 * np.sin(2 * np.pi * rng.uniform(low, high) * time)
            tone += 0.02 * rng.standard_normal(4000)
            sf.write(root / label / f"{label}{k:02d}.wav", tone, 8000)
    return root


def overrides_for(sounds):
    """Returns overrides that make configs/folder.py an experiment of seconds on `write_tones`."""
    return [
        f"--config.supervised.data.path={sounds}",
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


# Tracing the augmentations of configs/folder.py is a quarter of what its short runs take. One that
# draws stays.
LESS_AUGMENTED = [
    "--config.supervised.augment.waveform=({'name': 'gain'},)",
    "--config.supervised.augment.spectrogram=()",
]


@pytest.fixture
def folder_of_sounds(tmp_path):
    """A folder of `write_tones`."""
    return write_tones(tmp_path / "sounds")


@pytest.fixture
def small_overrides(folder_of_sounds):
    """Overrides that make configs/folder.py an experiment of seconds on `folder_of_sounds`."""
    encoder = "--config.supervised.model.encoder={'channels': (8, 8), 'hidden': 16}"
    return [*overrides_for(folder_of_sounds), encoder, *LESS_AUGMENTED]


@contextlib.contextmanager
def shared_folder(tmp_path_factory, name):
    """Gives (a folder that pytest's workers share, whether it is new) to one worker at a time."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, folder = base / f"{name}.done", base / name
        yield folder, not done.is_file()
        done.touch()


class Trained(NamedTuple):
    """A finished run that tests read, and leave as it is."""

    workdir: Path
    sounds: Path
    overrides: list[str]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """configs/folder.py, trained on tones for 30 steps."""
    from sacjax.commands import train

    with shared_folder(tmp_path_factory, "trained") as (root, new):
        overrides = overrides_for(root / "sounds") + [
            "--config.supervised.train.steps=30",
            "--config.supervised.train.evaluate_every=10",
            "--config.profile=True",
        ]
        run = Trained(root / "run", root / "sounds", overrides)
        if new:
            shutil.rmtree(root, ignore_errors=True)
            write_tones(run.sounds)
            config = str(ROOT / "configs" / "folder.py")
            train.main(["--config", config, "--workdir", str(run.workdir), *overrides])
    return run


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """{name: workdir}: a pretrained wav2vec2 and a classifier, small_cnn, both of random values."""
    from workdirs import write_workdir

    kinds = {"wav2vec2": "wav2vec2", "small_cnn": "classification"}
    with shared_folder(tmp_path_factory, "networks") as (root, new):
        for name, objective in kinds.items() if new else ():
            write_workdir(root / name, name, objective)
    return {name: root / name for name in kinds}


@pytest.fixture(scope="session")
def bucket():
    """The bucket gs://bucket on this machine, for all tests of a worker and their processes."""
    if not all(map(importlib.util.find_spec, ("gcsfs", "gcp_storage_emulator"))):
        pytest.skip("needs gcsfs and gcp-storage-emulator (extra `test`)")
    from launch.emulated_bucket import Bucket

    with Bucket() as served:
        os.environ.update(served.environment)  # gcsfs reads it once, when it is imported
        yield served


@pytest.fixture
def outage(bucket):
    """Calling it makes the bucket answer the next two requests by 503.

    It returns a function that says how many of them have not come.
    """

    def begin():
        bucket.refuses = 2
        return lambda: bucket.refuses

    yield begin
    bucket.refuses = 0


@pytest.fixture
def real_data():
    """The folder with ESC-10 and FSDD; skips where there is none."""
    root = Path(os.environ.get("SACJAX_DATA", ROOT.parent / "shared" / "data"))
    if not (root / "esc10").is_dir():
        pytest.skip(f"needs the real recordings: no folder {root}/esc10; set SACJAX_DATA")
    return root
