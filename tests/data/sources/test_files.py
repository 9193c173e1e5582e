import os
import resource
import tracemalloc

import numpy as np
import pytest
import soundfile as sf
from sounds import tone, wav_header, write

from sacjax.data import decode, retry
from sacjax.data.retry import RetriedFile
from sacjax.data.sources import FileClip, files
from sacjax.errors import UserError

CODED = [
    ("wav", "PCM_U8", 0.01),
    ("wav", "PCM_24", 1e-4),
    ("wav", "FLOAT", 1e-4),
    ("flac", "PCM_16", 1e-4),
    ("aiff", "PCM_S8", 0.01),
    ("ogg", "VORBIS", 0.05),
    ("mp3", "MPEG_LAYER_III", 0.1),
    ("wav", "ULAW", 0.02),
]


@pytest.mark.parametrize("kind, subtype, tolerance", CODED)
def test_formats_and_seeking(tmp_path, kind, subtype, tolerance):
    path = write(tmp_path / f"a.{kind}", tone(2.0, 16000), 16000, subtype=subtype)
    clip = FileClip(str(path))
    assert clip.alone == (kind in ("flac", "ogg", "mp3"))  # the quicker way
    assert clip.sample_rate == 16000 and clip.num_samples == 32000
    part = clip.read(8000, 4000)
    assert part.shape == (4000, 1) and part.dtype == np.float32
    if kind != "mp3":  # which may begin late
        np.testing.assert_allclose(part, tone(2.0, 16000)[8000:12000], atol=tolerance)
    np.testing.assert_allclose(clip.read(8000, 4000), part, atol=1e-6)


def test_many_channels_and_high_rates(tmp_path):
    clip = FileClip(str(write(tmp_path / "a.wav", tone(0.5, 192000, 8), 192000)))
    x = decode.read(clip, 16000, 0.0, 1.0)
    np.testing.assert_allclose(x[100:-100], tone(0.5, 16000)[100:-100, 0], atol=2e-3)
    assert len(x) == 8000 and clip.read(0, 10).shape == (10, 8)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_a_truncated_file_gives_what_it_has(tmp_path, kind):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * 16000)
    path = write(tmp_path / f"a.{kind}", noise, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = FileClip(str(path))
    count = decode.count_samples(clip)
    assert count == pytest.approx(80000, rel=0.2)  # a page or a frame is lost
    for crop in ("start", "center", "random"):
        x, length = decode.read_crop(
            FileClip(str(path)), 16000, 2.0, crop, "zero", np.random.default_rng(0)
        )
        assert (
            length >= (32000 if kind != "mp3" else 12000) and np.abs(x[: length // 2]).mean() > 0.05
        )


def huge_flac(path):
    """A good FLAC whose header promises 2**36 - 1 samples."""
    content = bytearray(write(path, tone(0.5), format="FLAC").read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_header_that_claims_gigabytes_allocates_nothing(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "wav":
        path.write_bytes(wav_header(0xFFFFFFF0) + (tone(0.5) * 32767).astype("<i2").tobytes())
    else:
        huge_flac(path)
    tracemalloc.start()
    clip = FileClip(str(path))
    x = decode.read(clip, 8000, 0.0, clip.num_samples / clip.sample_rate)
    y, length = decode.read_crop(
        FileClip(str(path)), 8000, 0.4, "center", "zero", np.random.default_rng(0)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(x) == 4000 and length == 3200 and peak < 64e6
    np.testing.assert_allclose(y, tone(0.5)[400:3600, 0], atol=1e-3)


def test_what_cannot_be_decoded_raises(tmp_path):
    def fails(name, content, error=(OSError, sf.LibsndfileError, decode.AudioError)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error) as caught:
            clip = FileClip(str(tmp_path / name))
            decode.read_crop(clip, 16000, 1.0, "random", "zero", np.random.default_rng(0))
        return str(caught.value)

    assert "empty file" in fails("empty.wav", b"")
    assert "no samples" in fails("header.wav", wav_header(0))
    assert "no samples" in fails("header-only.wav", wav_header(16000))
    fails("text.wav", b"this is not sound" * 100, sf.LibsndfileError)
    fails("part of a header.wav", wav_header(16000)[:20])
    for kind in ("flac", "ogg", "mp3"):
        path = write(tmp_path / f"good.{kind}")
        fails(f"start.{kind}", path.read_bytes()[:40])
    with pytest.raises(OSError):
        FileClip(str(tmp_path / "nowhere.wav"))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_damage_never_hangs_or_kills(tmp_path, kind):
    rng = np.random.default_rng(0)
    content = write(tmp_path / f"good.{kind}", rng.uniform(-0.5, 0.5, 16000), 8000).read_bytes()
    for k in range(20):
        damaged = bytearray(content)
        for place in rng.integers(4 if k % 2 else 100, len(content), size=1 + 10 * k):
            damaged[place] = rng.integers(256)
        path = tmp_path / f"{k}.{kind}"
        path.write_bytes(damaged)
        try:
            x, length = decode.read_crop(FileClip(str(path)), 8000, 1.0, "random", "zero", rng)
        except Exception:
            continue
        assert x.shape == (8000,) and 0 < length <= 8000 and np.isfinite(x).all()


# --- a disk that fails, and files that were cut short
# -----------------------------------------------


@pytest.fixture
def no_more_files():
    """Gives a function after whose call this process can open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def exhaust():
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))

    yield exhaust
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_too_many_open_files_are_no_bad_clip(tmp_path, monkeypatch, no_more_files, kind):
    path = str(write(tmp_path / f"a.{kind}"))
    FileClip(path)  # what it imports is there
    monkeypatch.setattr(retry, "WAITS", (0,))
    no_more_files()
    with pytest.raises(UserError, match=f"a.{kind}: cannot be read: Too many open files.*ulimit"):
        FileClip(path)


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "ogg", "mp3"])
def test_reads_that_fail_now_and_then_change_nothing(tmp_path, monkeypatch, failing_disk, kind):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    path = str(write(tmp_path / f"a.{kind}", noise, 16000))
    expected = FileClip(path).read(0, 40_000), FileClip(path).read(31_000, 2000)
    monkeypatch.setattr(RetriedFile, "BLOCK", 1 << 10)
    # What libsndfile reads alone fails too, and then our own reads.
    alone = files._SoundFile.read

    def read(self, *args, **kwargs):
        if isinstance(self.name, bytes) and failing_disk.every:
            raise sf.LibsndfileError(2)
        return alone(self, *args, **kwargs)

    monkeypatch.setattr(files._SoundFile, "read", read)
    failing_disk.every = 2
    clip = FileClip(path)
    assert clip.num_samples == 40_000
    np.testing.assert_array_equal(clip.read(0, 40_000), expected[0])
    np.testing.assert_array_equal(FileClip(path).read(31_000, 2000), expected[1])
    assert failing_disk.failed
    failing_disk.every = 1
    with pytest.raises(UserError, match=f"a.{kind}: cannot be read: Input/output error"):
        clip.read(0, 40_000)
    for crop in (0.0, 0.5, 0.99):  # nor does it look like a clip that is short
        with pytest.raises(UserError, match="Input/output error"):
            decode.read_crop_at(clip, 8000, 0.5, crop, "zero")
    with pytest.raises(UserError, match="Input/output error"):
        decode.count_samples(clip)


def test_what_a_header_promises(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)

    def missing(path):
        clip = FileClip(str(path))
        return decode.missing_seconds(clip, decode.count_samples(clip) / clip.sample_rate)

    for kind in ("wav", "aiff", "au", "w64", "rf64", "flac", "ogg", "mp3"):
        path = write(tmp_path / f"a.{kind}", noise, 16000)
        assert missing(path) == 0, kind
        whole = path.read_bytes()
        path.write_bytes(whole[: int(0.7 * len(whole))])
        short = missing(path)
        assert short == np.inf if kind == "ogg" else short == pytest.approx(3.0, abs=0.2), kind
        reason = decode.missing_reason(short)
        assert "its end is missing" in reason if kind == "ogg" else f"{short:.3f} s are" in reason
    flac = write(tmp_path / "b.flac", noise, 16000)
    content = bytearray(flac.read_bytes())
    content[len(content) // 5 : len(content) // 5 + 200] = bytes(200)
    flac.write_bytes(content)
    clip = FileClip(str(flac))
    assert decode.read_crop_at(clip, 16000, 1.0, 0.9, "zero")[1:] == (16000, 0.0)
    _, length, lost = decode.read_crop_at(clip, 16000, 1.0, 0.15, "zero")  # across the damage
    assert 0 < length < 16000 and lost == pytest.approx(1 - length / 16000, abs=0.01)


def test_a_header_that_was_written_before_the_length_was_known_promises_nothing(tmp_path):
    pcm = (tone(0.5) * 32767).astype("<i2").tobytes()
    for size in (0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFF000, 0x80000000, 0):
        (tmp_path / "a.wav").write_bytes(wav_header(size) + pcm)
        clip = FileClip(str(tmp_path / "a.wav"))
        assert decode.missing_seconds(clip, decode.count_samples(clip) / 8000) == 0, hex(size)


def test_a_part_of_a_file_that_was_cut_short(tmp_path):
    path = write(tmp_path / "a.wav", tone(4.0))
    path.write_bytes(path.read_bytes()[: 44 + 2 * 16000])  # 2 s of it
    clips = [FileClip(str(path), start, end) for start, end in ((0, 1.5), (1, 3), (3, None))]
    seconds = [clip.num_samples / 8000 for clip in clips]
    assert seconds == [1.5, 1.0, 0.0]
    found = [decode.missing_seconds(clip, s) for clip, s in zip(clips, seconds, strict=True)]
    np.testing.assert_allclose(found, [0, 1, 1], atol=0.01)


def test_a_file_in_memory(tmp_path):
    for kind in ("wav", "flac", "ogg", "mp3"):
        path = write(tmp_path / f"a.{kind}", tone(1.0))
        clip, file = FileClip("", content=path.read_bytes()), FileClip(str(path))
        assert (clip.num_samples, clip.promised) == (file.num_samples, file.promised)
        np.testing.assert_array_equal(clip.read(0, 8000), file.read(0, 8000))
