"""Pipes, files and microphones give the same samples; what is no sound is said so."""

import io
import struct
import sys
import types
import wave

import numpy as np
import pytest
import soundfile as sf
import soxr

from sacjax.errors import UserError
from sacjax.inference import live

RATE = 8000
SOUND = np.random.default_rng(0).integers(-20000, 20000, 5001).astype(np.int16)


def listened(source, rate=RATE, seconds=0.1):
    return np.concatenate([np.zeros(0, np.int16), *live.listen(source, rate, seconds)])


def pipe(data, rate=None, **options):
    return live.Pipe(io.BytesIO(data), rate, RATE, **options)


def wav(samples, width=2, rate=RATE, channels=1):
    """Returns a WAV file as Python's wave module writes it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels), out.setsampwidth(width), out.setframerate(rate)
        out.writeframes(samples)
    return file.getvalue()


@pytest.mark.parametrize("seconds", [1e-9, 0.0333, 9.0])
def test_raw_samples(seconds):
    np.testing.assert_array_equal(listened(pipe(SOUND.tobytes()), seconds=seconds), SOUND)
    cut = pipe(SOUND.tobytes()[:-1])  # the last sample is half there
    np.testing.assert_array_equal(listened(cut, seconds=seconds), SOUND[:-1])
    floats = (SOUND / 32768).astype("<f4").tobytes()
    np.testing.assert_array_equal(listened(pipe(floats, encoding="f32le")), SOUND)
    stereo = np.stack([SOUND, SOUND // 2 * 2 - SOUND], 1)
    mean = listened(pipe(stereo.astype("<i2").tobytes(), channels=2), seconds=seconds)
    np.testing.assert_allclose(mean, stereo.mean(1), atol=0.5)


def test_one_channel_of_a_pipe_or_a_file(tmp_path):
    stereo = np.stack([SOUND, SOUND[::-1]], 1)
    raw = pipe(stereo.astype("<i2").tobytes(), channels=2, channel=1)
    np.testing.assert_array_equal(listened(raw), SOUND[::-1])
    np.testing.assert_array_equal(
        listened(pipe(wav(stereo.tobytes(), channels=2), channel=0)), SOUND
    )
    sf.write(tmp_path / "a.wav", stereo, RATE)
    file = live.File(str(tmp_path / "a.wav"), RATE, fast=True, channel=1)
    np.testing.assert_array_equal(listened(file), SOUND[::-1])
    with pytest.raises(UserError, match="standard input: it has one channel, and data.channel"):
        pipe(wav(SOUND.tobytes()), channel=1)


def test_wav_files_also_those_of_unknown_length():
    data = wav(SOUND.tobytes())
    np.testing.assert_array_equal(listened(pipe(data)), SOUND)
    np.testing.assert_array_equal(listened(pipe(data, rate=RATE)), SOUND)
    # As ffmpeg writes into a pipe, with a chunk of notes before the sound.
    notes = b"LIST" + struct.pack("<I", 6) + b"INFOxx"
    for size in (b"\xff" * 4, b"\0" * 4):
        for sound in (b"\xff" * 4, b"\0" * 4, data[40:44]):
            streamed = data[:4] + size + data[8:36] + notes + b"data" + sound + data[44:]
            np.testing.assert_array_equal(listened(pipe(streamed)), SOUND)
    np.testing.assert_array_equal(listened(pipe(data + notes)), SOUND)  # notes are no sound
    wide = wav((SOUND.astype(np.int32) << 16).tobytes(), width=4)
    np.testing.assert_array_equal(listened(pipe(wide)), SOUND)
    assert pipe(wav(SOUND.tobytes(), rate=44100)).sample_rate == 44100


def test_wav_files_of_an_extensible_format():
    """As ffmpeg and SoX write more than two channels, 16 bits or 48 kHz."""
    three = np.stack([SOUND // 3, SOUND, SOUND[::-1]], 1)
    for kind, shift in (("PCM_16", 0), ("PCM_32", 16)):
        file = io.BytesIO()
        samples = three.astype(np.int32) << shift if shift else three
        sf.write(file, samples, RATE, format="WAVEX", subtype=kind)
        data = file.getvalue()
        assert data[20:22] == b"\xfe\xff"
        notes = b"JUNK" + struct.pack("<I", 4) + b"fmt "
        for whole in (data, data[:12] + notes + data[12:]):
            np.testing.assert_array_equal(listened(pipe(whole, channel=2)), SOUND[::-1])
    file = io.BytesIO()
    sf.write(file, SOUND / 32768, RATE, format="WAVEX", subtype="FLOAT")
    with pytest.raises(UserError, match="cannot be read .unknown format: 3.*ffmpeg"):
        pipe(file.getvalue())


def test_a_stream_does_not_end_where_the_counter_of_its_header_does(monkeypatch):
    """A WAV file counts 4 GiB at the most: 37 h at 16 kHz, and 6 h of stereo at 48 kHz."""
    data = wav(SOUND.tobytes())
    monkeypatch.setattr(live, "UNKNOWN", 1000)
    streamed = data[:40] + struct.pack("<I", 2000) + data[44:]
    np.testing.assert_array_equal(listened(pipe(streamed)), SOUND)


@pytest.mark.parametrize(("rate", "seconds"), [(11025, 0.01), (44100, 0.05), (16000, 10.0)])
def test_another_rate_is_resampled_as_the_whole(rate, seconds):
    got = listened(pipe(SOUND.tobytes(), rate=rate), seconds=seconds)
    want = 32768 * soxr.resample(SOUND.astype(np.float32) / 32768, rate, RATE)
    assert len(got) == len(want)
    np.testing.assert_allclose(got, np.clip(want, -32768, 32767), atol=1)


def test_pipes_that_give_no_sound():
    floating = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0" + b"\0" * 30
    for data, options, message in [
        (b"", {}, "no sound: standard input ended before the first sample"),
        (wav(SOUND.tobytes()), dict(rate=16000), "--rate is 16000, but .* has 8000 Hz"),
        (wav(b"\x80" * 9, width=1), {}, "of 8 bits: write 16 or 32"),
        (floating, {}, "cannot be read .unknown format: 3.*ffmpeg"),
        (b"RIFF\0\0\0\0WAVE", {}, "cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            pipe(data, **options)
    for first, kind in ((b"fLaC", "FLAC"), (b"ID3\x03", "MP3"), (b"RF64", "RF64")):
        with pytest.raises(UserError, match=f"is a file of {kind}: name it as FILE"):
            pipe(first + bytes(99))
    assert len(listened(pipe(wav(b"")))) == 0 and len(listened(pipe(b"\0"))) == 0
    with pytest.raises(UserError, match="NaN or infinite: is --encoding"):
        listened(pipe(b"\xff" * 400, encoding="f32le"))


def test_a_file_comes_in_its_own_time(tmp_path, monkeypatch):
    sf.write(tmp_path / "a.wav", SOUND, RATE)
    np.testing.assert_array_equal(listened(live.File(str(tmp_path / "a.wav"), RATE, True)), SOUND)
    now, times = [0.0], []
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(live.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    for chunk in live.File(str(tmp_path / "a.wav"), RATE).chunks(0.25):
        times.append((now[0], len(chunk)))
        now[0] += 0.1  # hearing it takes a while, which must not add up
    want = [(0.25, 2000), (0.5, 2000), (5001 / RATE, 1001)]
    np.testing.assert_allclose(times, want)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(UserError, match="text.wav: "):
        listened(live.File(str(tmp_path / "text.wav"), RATE))


def sounddevice(rates=(8000,)):
    """Returns a stand-in for the library: its microphone has these rates and hears SOUND."""

    class PortAudioError(Exception):
        pass

    def check(device, channels, dtype, samplerate):
        if samplerate not in rates:
            raise PortAudioError(f"Invalid sample rate [PaErrorCode -9997] {samplerate}")

    def query(device, kind):
        if device not in (None, 3, "usb"):
            raise ValueError(f"No input device matching {device!r}")
        return dict(default_samplerate=float(rates[0]))

    class RawInputStream:
        def __init__(self, blocksize, callback, **settings):
            self.blocksize, self.callback = blocksize, callback

        def __enter__(self):
            for k in range(2):
                part = SOUND[k * self.blocksize : (k + 1) * self.blocksize]
                self.callback(memoryview(part.tobytes()), len(part), None, k == 1)

        def __exit__(self, *error):
            pass

    return types.SimpleNamespace(
        PortAudioError=PortAudioError,
        RawInputStream=RawInputStream,
        check_input_settings=check,
        query_devices=query,
    )


def test_a_microphone(monkeypatch):
    monkeypatch.setattr(live, "UNANSWERED", 0.0)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice())
    microphone = live.Microphone(None, RATE)
    got = []
    with pytest.raises(UserError, match="the microphone gave no sound"):
        for chunk in live.listen(microphone, RATE, 0.125):
            got.append(chunk)
    np.testing.assert_array_equal(np.concatenate(got), SOUND[:2000])
    assert microphone.overflows == 1
    assert live.Microphone("3", RATE).device == 3 and live.Microphone("usb", RATE).device == "usb"
    with pytest.raises(UserError, match="--microphone 7: No input device matching"):
        live.Microphone("7", RATE)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(rates=(48000, 44100)))
    assert live.Microphone(None, RATE).sample_rate == 48000  # and it is resampled
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(rates=()))
    monkeypatch.setattr(
        sys.modules["sounddevice"], "query_devices", lambda *_: dict(default_samplerate=1.0)
    )
    with pytest.raises(UserError, match="there is no microphone: Invalid sample rate"):
        live.Microphone(None, RATE)


def test_a_microphone_without_its_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"pip install 'sacjax\[live\]'"):
        live.Microphone(None, RATE)

    class Missing:
        def find_spec(self, name, *_):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(UserError, match="PortAudio library not found: .*libportaudio2"):
        live.Microphone(None, RATE)
