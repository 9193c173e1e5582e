"""The benchmark of faults: that what it injects happens, and is told from what it shows."""

import builtins
import errno
import json
import os

import jax
import orbax.checkpoint as ocp
import pytest
import soundfile as sf

from launch.benchmarks import faults
from launch.benchmarks.fault_cases import inject, runs


@pytest.fixture
def patched(monkeypatch):
    """Puts back at the end what `inject` patches in this process."""
    names = [(os, name) for name in ("open", "close", "pread", "read", "readv", "preadv")]
    names += [(builtins, "open"), (sf.SoundFile, "__init__"), (sf.SoundFile, "read")]
    names += [(ocp.CheckpointManager, "restore"), (ocp.StandardCheckpointHandler, "restore")]
    for owner, name in names:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(inject.atexit, "register", lambda told: None)


def outcomes(action, times=300):
    """The errors' numbers, or 0, of as many tries."""
    found = []
    for _ in range(times):
        try:
            action()
            found.append(0)
        except OSError as error:
            found.append(error.errno)
        except sf.LibsndfileError as error:
            found.append(-error.code)
    return found


def test_a_share_of_the_reads_below_a_folder_fails(tmp_path, patched):
    inside, outside = (runs.tones(tmp_path / name, 1) for name in ("inside", "outside"))
    wav, other = inside / "low" / "000.wav", outside / "low" / "000.wav"
    inject.reads(str(inside), share=0.1)

    def pread(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert os.pread(descriptor, 4, 0) == b"RIFF"
        finally:
            os.close(descriptor)

    assert set(outcomes(lambda: open(wav).close())) == {0, *inject.TRANSIENT}
    failed = [number != 0 for number in outcomes(lambda: pread(wav))]
    assert 0.1 < sum(failed) / 300 < 0.3  # an opening and a read, each
    assert set(outcomes(lambda: sf.SoundFile(wav).close())) == {0, -2}  # libsndfile's system error
    lengths = set()

    def read():
        with sf.SoundFile(wav) as file:
            lengths.add(len(file.read(1000)))

    outcomes(read)
    assert lengths == {500, 1000}  # it reads less where the system fails
    assert not any(outcomes(lambda: pread(other)) + outcomes(lambda: sf.read(other)))


@pytest.mark.parametrize("kind", ["stale", "io", "memory", "leaf", "interrupt"])
def test_restoring_fails_in_five_ways(kind, patched):
    inject.restore(kind)
    expected = {"memory": jax.errors.JaxRuntimeError, "leaf": ValueError}
    with pytest.raises(expected.get(kind, (OSError, KeyboardInterrupt))) as caught:
        ocp.StandardCheckpointHandler.restore(None, "folder")
    numbers = {"stale": errno.ESTALE, "io": errno.EIO}
    assert getattr(caught.value, "errno", None) == numbers.get(kind)


def test_no_file_grows_once_the_log_has_come_to_a_step(tmp_path, monkeypatch):
    log, limits = tmp_path / "metrics.jsonl", []
    monkeypatch.setattr(inject.resource, "setrlimit", lambda kind, limit: limits.append(limit[0]))
    log.write_text('{"step": 10}\n{"step": 20')
    waits = iter([None, log.write_text])

    def sleep(_):
        assert not limits
        grow = next(waits)
        if grow:
            grow('{"step": 10}\n{"step": 20}\n')

    monkeypatch.setattr(inject.time, "sleep", sleep)
    monkeypatch.setattr(inject.threading.Thread, "start", lambda thread: thread.run())
    inject.disk(str(log), step=20, size=7)
    assert limits == [7]


def test_what_a_run_said_is_read(tmp_path):
    ended = runs.Ended(1, "Traceback (most recent call last):\n…")
    assert ended.traceback and not runs.Ended(2, "error: x").traceback
    assert runs.resumed_at("supervised: goes on from step 120\n") == 120
    assert runs.resumed_at("supervised: 80 clips") is None
    words = runs.injected({"disk": {}}, runs.flags(tmp_path, tmp_path / "w", train__steps=7))
    assert json.loads(words[2]) == {"disk": {}} and "--config.supervised.train.steps=7" in words


def test_the_table_says_what_holds():
    line = runs.Line("done", "wanted", "seen", True)
    rows = faults.table({"a": line._asdict(), "b": line._replace(holds=False)._asdict()})
    assert rows.splitlines()[2:] == [f"| done | wanted | seen | {x} |" for x in ("yes", "no")]
