import tracemalloc

import numpy as np
import pytest
import soundfile as sf
from sounds import tone, wav_header, write

from sacjax.data import decode
from sacjax.data.sources import FileClip

CODED = [("wav", "PCM_U8", 0.01), ("wav", "PCM_24", 1e-4), ("wav", "FLOAT", 1e-4), ("flac", "PCM_16", 1e-4),
         ("aiff", "PCM_S8", 0.01), ("ogg", "VORBIS", 0.05), ("mp3", "MPEG_LAYER_III", 0.1), ("wav", "ULAW", 0.02)]  # fmt: skip


@pytest.mark.parametrize("kind, subtype, tolerance", CODED)
def test_formats_and_seeking(tmp_path, kind, subtype, tolerance):
    path = write(tmp_path / f"a.{kind}", tone(2.0, 16000), 16000, subtype=subtype)
    clip = FileClip(str(path))
    assert clip.sample_rate == 16000 and clip.num_samples == pytest.approx(32000, abs=2400)
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
