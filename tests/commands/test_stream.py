"""`sacjax stream`: the events of a pipe or a file are predict's; how it ends."""

import io
import json
import os
import signal
import types

import crossings
import numpy as np
import pytest
import soundfile as sf

from sacjax import inference
from sacjax.commands import predict, stream
from sacjax.errors import UserError
from sacjax.inference.listening import Listener


@pytest.fixture(autouse=True)
def workdirs(monkeypatch):
    """Makes `load_classifier` answer with the made-up model."""
    model = crossings.model(scale=3.0)
    monkeypatch.setattr(inference, "load_classifier", lambda workdir, which: model)


@pytest.fixture
def run(capsys, monkeypatch):
    """Returns a function of standard input's bytes and flags: (exit code, stdout, stderr)."""

    def run(data, *flags):
        raw = data if hasattr(data, "read") else io.BytesIO(data)
        stdin = types.SimpleNamespace(buffer=raw, isatty=lambda: False)
        monkeypatch.setattr("sys.stdin", stdin)
        code = stream.main(["--checkpoint", "one", *map(str, flags)])
        return (code, *capsys.readouterr())

    return run


def sound():
    """Returns int16: 1 s low, 1 s high, 1.3 s low."""
    tones = [crossings.sine(f, s) for f, s in ((200, 1.0), (3000, 1.0), (200, 1.3))]
    return np.round(32768 * np.concatenate(tones)).clip(-32768, 32767).astype("<i2")


def test_a_pipe_a_file_and_predict_give_the_same_events(run, tmp_path, capsys):
    flags = ("--hop", "0.1", "--merge_gap", "0.2", "--min_duration", "0.3")
    path = tmp_path / "a.wav"
    sf.write(path, sound(), crossings.RATE)
    predict.main(["--checkpoint", "x", *flags, "--timeline", f"{tmp_path}/e.jsonl", str(path)])
    want = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    capsys.readouterr()
    for data, more in [
        (sound().tobytes(), ()),
        (path.read_bytes(), ()),
        (b"", (path, "--fast")),
        (sound().repeat(2).tobytes(), ("--channels", "2")),
    ]:
        code, out, err = run(data, "--format", "json", *flags, *more)
        events = [json.loads(line) for line in out.splitlines()]
        assert code == 0 and len(events) == 3
        assert sorted(events, key=lambda event: event["start"]) == [
            {k: event[k] for k in ("start", "end", "label", "probability")} for event in want
        ]
    lines = err.splitlines()
    assert lines[0] == "heard 3.30 s (sliding windows, 0.5 s, every 0.1 s)"
    assert lines[1].startswith("latency 0.3") and "half a hop 0.300 s, computing" in lines[1]
    assert 0 < float(lines[2].removeprefix("real-time factor ").split(":")[0])


def test_text(run):
    _, out, _ = run(sound().tobytes(), "--hop", "0.1", "--ignore", "low")
    assert out == "     0.90      2.10  high  90.9 %\n"


class Stopping(io.BytesIO):
    """Standard input whose writer is stopped after two seconds of sound: a signal comes."""

    def __init__(self, number):
        super().__init__(sound().tobytes())
        self.number = number

    def read(self, count):
        if self.tell() >= 2 * 2 * crossings.RATE:
            os.kill(os.getpid(), self.number)
        return super().read(count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_as_the_end_of_the_sound_does(run, number):
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = run(Stopping(number), "--hop", "0.1", "--format", "json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(e["label"], e["end"]) for e in events] == [("low", 0.9), ("high", 2.0)]
    assert err.startswith("heard 2.00 s")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_nothing_of_what_is_being_heard(run, monkeypatch, number):
    """It comes while the chunk after 2 s is computed, and before its events are printed."""
    push, heard = Listener.push, []

    def stopped(self, samples):
        heard.append(len(samples))
        if sum(heard) == 2 * crossings.RATE:
            os.kill(os.getpid(), number)
        return push(self, samples)

    monkeypatch.setattr(Listener, "push", stopped)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run(sound().tobytes(), "--hop", "0.1", "--format", "json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(e["label"], e["end"]) for e in events] == [("low", 0.9), ("high", 2.0)]
    assert err.startswith("heard 2.00 s") and signal.getsignal(signal.SIGINT) == before


def test_events_until_the_source_fails_are_told(run, capsys):
    floats = (sound()[: 2 * crossings.RATE] / 32768).astype("<f4").tobytes()
    with pytest.raises(UserError, match="NaN or infinite"):
        run(floats + b"\xff" * 4, "--hop", "0.1", "--format", "json", "--encoding", "f32le")
    out, err = capsys.readouterr()
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["low", "high"]
    assert err.startswith("heard 2.00 s")


def test_a_signal_before_any_sound(run):
    class Silent:
        def read(self, count):
            raise KeyboardInterrupt

    assert run(Silent()) == (1, "", "no sound was heard\n")


def test_a_wav_file_without_samples(run):
    empty = io.BytesIO()
    sf.write(empty, np.zeros(0, np.int16), crossings.RATE, format="WAV", subtype="PCM_16")
    assert run(empty.getvalue()) == (1, "", "no sound was heard\n")


def test_a_slow_machine_is_told(run, monkeypatch):
    clock = stream.Clock()
    now = iter([0.0, 2.0, 5.0, 9.0])
    monkeypatch.setattr(stream.time, "perf_counter", lambda: next(now))
    for made in ([], [1]):
        with clock.measure(made):
            pass
    listener = types.SimpleNamespace(carries=True, window=1.0, hop=0.5, delay=0.75)
    assert clock.summary(listener, 4.0).splitlines() == [
        "heard 4.00 s (the encoder's state is carried, 1 s, every 0.5 s)",
        "latency 4.750 s: half a window and half a hop 0.750 s, computing 4000.0 ms "
        "(95 %: 4000.0 ms)",
        "real-time factor 1.5000: this machine is too slow for it; take a longer --hop",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "no sound: standard input ended before the first sample"),
        (("--rate", "0"), "--rate is 0: that is none of sound"),
        (("--channels", "99"), "--channels is 99"),
        (("--fast",), "--fast is for a FILE"),
        (("nowhere.wav",), "there is no file 'nowhere.wav'"),
        (("--microphone", "", "--rate", "8000"), "--rate is for raw samples"),
        (("--hop", "2"), "--hop is 2: the model hears 0.5 s"),
        (("--off", "0.9"), "--off is 0.9"),
    ],
)
def test_mistakes(run, flags, message):
    with pytest.raises(UserError, match=message):
        run(b"", *flags)


def test_a_terminal_is_no_sound(monkeypatch):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    with pytest.raises(UserError, match="pipe it to standard input, name a FILE, or"):
        stream.main(["--checkpoint", "one"])
