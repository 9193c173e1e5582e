"""Sounds that PyAV reads: whole, in parts, damaged, and where it is not installed."""

import pickle
import tarfile

import numpy as np
import pytest
import scipy.signal
from sounds import settings, write

from sacjax.data import decode, retry, sources
from sacjax.data.retry import RetriedFile
from sacjax.data.sources import files, folder, pyav
from sacjax.errors import UserError

av = pytest.importorskip("av")


def sweep(seconds, rate):
    """A tone that rises, so that a place in it can be told from any other."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 150 * time / 2) * time)).astype(np.float32)


def encode(path, codec, rate, seconds=6.0, channels=1, noise=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = "mono" if channels == 1 else "stereo"
    samples = np.repeat(sweep(seconds, rate)[None], channels, 0)
    samples += np.random.default_rng(0).uniform(-noise, noise, samples.shape).astype(np.float32)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        fifo = av.AudioFifo()
        for part in av.AudioResampler(format=stream.format, layout=layout).resample(frame):
            fifo.write(part)
        while (part := fifo.read(1024, partial=True)) is not None:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


def shift(a, b):
    """The shift at which `b` is most like `a`, and how like: 1 is equal but for the level."""
    like = scipy.signal.correlate(b, a, method="fft") / (np.linalg.norm(a) * np.linalg.norm(b))
    best = int(np.argmax(like))
    return best - (len(a) - 1), float(like[best])


CODED = [
    ("a.m4a", "aac", 16000, 2100),
    ("a.mp4", "aac", 44100, 2100),
    ("a.aac", "aac", 16000, 2100),
    ("a.webm", "libopus", 48000, 100),
    ("a.mka", "flac", 16000, 0),
    ("a.ac3", "ac3", 48000, 600),
]


@pytest.mark.parametrize(("name", "codec", "rate", "late"), CODED)
def test_a_file_is_read_whole_and_in_parts(tmp_path, name, codec, rate, late):
    path = encode(tmp_path / name, codec, rate)
    clip = sources.OpenFiles([str(path)])(0)
    assert isinstance(clip, pyav.AvClip) and clip.sample_rate == rate
    assert clip.num_samples == pytest.approx(6 * rate, abs=3000)  # encoders add some at both ends
    whole = clip.read(0, clip.num_samples)
    assert whole.dtype == np.float32 and whole.shape[1] == 1
    assert len(whole) == decode.count_samples(clip)
    assert decode.missing_seconds(clip, len(whole) / rate) == 0
    lag, like = shift(sweep(2, rate), whole[: 2 * rate, 0])
    assert 0 <= lag <= late and like > 0.95
    # Any part, in any order, is that part of the whole; WebM knows places to a millisecond.
    near = rate // 1000 if name == "a.webm" else 0
    for start, count in ((4 * rate, rate), (rate, 700), (rate + 700, 5000), (0, 9), (5 * rate, 99)):
        part = clip.read(start, count)
        assert part.shape == (count, 1)
        around = whole[max(start - near, 0) : start + count + near, 0]
        if near and count > 1000:
            assert abs(shift(whole[start : start + count, 0], part[:, 0])[0]) <= near
        elif not near:
            np.testing.assert_allclose(part[:, 0], around[:count], atol=1e-4)
    assert clip.read(clip.num_samples, 5).shape == (0, 1)


def test_a_part_of_a_file_and_stereo(tmp_path):
    path = str(encode(tmp_path / "a.m4a", "aac", 16000, channels=2))
    whole, part = pyav.AvClip(path), pyav.AvClip(path, 2.0, 3.5)
    assert part.num_samples == 24000
    x = part.read(100, 8000)
    np.testing.assert_allclose(x, whole.read(32100, 8000), atol=1e-5)
    assert x.shape == (8000, 2) and len(part.read(23990, 50)) == 10


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.aac", "aac")])
def test_bytes_in_memory_are_read_as_the_file_is(tmp_path, name, codec):
    path = encode(tmp_path / name, codec, 16000, 2.0)
    file, held = pyav.AvClip(str(path)), pyav.AvClip(name, content=path.read_bytes())
    assert held.num_samples == file.num_samples
    for start, count in ((20000, 5000), (0, 9000)):
        np.testing.assert_array_equal(held.read(start, count), file.read(start, count))
    part = pyav.AvClip(name, 0.5, 1.0, path.read_bytes())
    np.testing.assert_array_equal(part.read(0, 8000), file.read(8000, 8000))
    with pytest.raises(OSError, match="empty"):
        pyav.AvClip(name, content=b"")


KINDS = [("a.m4a", "aac"), ("b.mp4", "aac"), ("c.webm", "libopus"), ("d.opus", "libopus")]


def heard(recordings, i):
    """The shift and likeness of a clip to the sweep of one second that it was made of."""
    x = decode.read_window(recordings.open(i), 8000, 0.0, 1.0, "zero")[0]
    return shift(sweep(1, 8000), x)


def test_webdataset_tars_hold_them(tmp_path):
    with tarfile.open(tmp_path / "d.tar", "w") as out:
        for name, codec in KINDS:
            path = encode(tmp_path / name, codec, 48000, 1.0)
            out.add(path, name)
            label = tmp_path / "label"
            label.write_text(codec)
            out.add(label, name[0] + ".cls")
    loaded = sources.load(settings(source="webdataset", path=str(tmp_path / "d.tar")))
    assert loaded.names == [f"d.tar/{name}" for name, _ in KINDS]
    assert loaded.class_names == ("aac", "libopus")
    loaded = pickle.loads(pickle.dumps(loaded))  # as worker processes get it
    for i in range(len(KINDS)):
        lag, like = heard(loaded, i)
        assert 0 <= lag < 400 and like > 0.95, KINDS[i]


def test_rows_of_parquet_files_hold_them_named_or_not(tmp_path):
    datasets = pytest.importorskip("datasets")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets.disable_progress_bars()
    cells = []
    for name, codec in KINDS:
        content = encode(tmp_path / "made" / name, codec, 48000, 1.0).read_bytes()
        cells += [{"bytes": content, "path": name}, {"bytes": content, "path": None}]
    cells.append({"bytes": b"this is no sound" * 99, "path": None})
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"audio": cells}), tmp_path / "d" / "train.parquet")
    data = settings(source="huggingface", path=str(tmp_path / "d"), data_dir=str(tmp_path / "c"))
    loaded = sources.load(data)
    for i in range(2 * len(KINDS)):
        lag, like = heard(loaded, i)
        assert 0 <= lag < 400 and like > 0.95, (KINDS[i // 2], i)
    with pytest.raises(ValueError, match="FFmpeg"):
        loaded.open(2 * len(KINDS))


def test_a_folder_and_a_manifest_read_them(tmp_path):
    encode(tmp_path / "dog" / "a.m4a", "aac", 16000)
    write(tmp_path / "cat" / "b.wav")
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.names == ["cat/b.wav", "dog/a.m4a"]
    x, length = decode.read_window(recordings.open(1), 8000, 1.0, 2.0, "zero")
    assert length == 16000 and np.abs(x).max() > 0.3


def test_damage_ends_the_clip_and_no_sound_is_an_error(tmp_path):
    path = encode(tmp_path / "a.mka", "flac", 16000)
    content = bytearray(path.read_bytes())
    half = tmp_path / "half.mka"
    half.write_bytes(content[: len(content) // 2])
    clip = pyav.AvClip(str(half))
    count = decode.count_samples(clip)
    assert 16000 < count < 80000 and decode.missing_seconds(clip, count / 16000) > 1
    (tmp_path / "text.m4a").write_bytes(b"this is no sound" * 99)
    (tmp_path / "empty.m4a").write_bytes(b"")
    for name, error in (("text.m4a", ValueError), ("empty.m4a", OSError), ("no.m4a", OSError)):
        with pytest.raises(error):
            pyav.AvClip(str(tmp_path / name))
    rng, bad = np.random.default_rng(0), 0
    for k in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, 200 if k % 2 else len(content), size=1 + k % 20):
            damaged[place] = rng.integers(256)
        half.write_bytes(damaged)
        try:
            clip = retry.attempt(lambda: pyav.AvClip(str(half)))
            x = retry.attempt(lambda clip=clip: clip.read(int(rng.integers(50_000)), 20_000))
            assert np.isfinite(x).all() and x.shape[0] <= 20_000
        except retry.BadClip:  # which the damage makes it, and not the machine's fault
            bad += 1
    assert 5 < bad < 60


def test_a_play_list_opens_no_other_file(tmp_path):
    encode(tmp_path / "secret.aac", "aac", 16000)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.aac\n")
    with pytest.raises(Exception, match="list.mp4|Invalid") as error:
        pyav.AvClip(str(tmp_path / "list.mp4"))
    assert not isinstance(error.value, UserError)


def test_a_disk_that_fails_is_no_bad_clip(tmp_path, monkeypatch, failing_disk):
    path = str(encode(tmp_path / "a.mka", "flac", 44100, noise=0.5))
    expected = pyav.AvClip(path).read(0, 99999)
    monkeypatch.setattr(RetriedFile, "BLOCK", 256)
    failing_disk.every = 2  # each second read fails, once
    np.testing.assert_array_equal(pyav.AvClip(path).read(0, 99999), expected)
    assert failing_disk.failed > 3
    clip = pyav.AvClip(path)
    failing_disk.every = 1
    with pytest.raises(UserError, match="a.mka: cannot be read: Input/output error"):
        clip.read(200000, 50000)
    with pytest.raises(UserError, match="Input/output error"):
        pyav.AvClip(path)


def test_without_pyav(tmp_path, monkeypatch, capsys):
    encode(tmp_path / "dog" / "a.m4a", "aac", 16000, 0.2)
    write(tmp_path / "dog" / "b.wav")
    monkeypatch.setattr(pyav, "INSTALLED", False)
    monkeypatch.setattr(folder, "EXTENSIONS", files.LIBSNDFILE)
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.names == ["dog/b.wav"]
    told = capsys.readouterr().err
    assert "1 files are read, others are not: 1 .m4a" in told and "sacjax[av]" in told
    with pytest.raises(
        ImportError, match="not recognised. PyAV may read it: pip install 'sacjax.av"
    ):
        sources.OpenFiles([str(tmp_path / "dog" / "a.m4a")])(0)
    with pytest.raises(ImportError, match="PyAV may read it: pip install 'sacjax.av"):
        files.open_content((tmp_path / "dog" / "a.m4a").read_bytes())
    with tarfile.open(tmp_path / "d.tar", "w") as out:
        out.add(tmp_path / "dog" / "a.m4a", "a.m4a")
    tar = sources.load(settings(source="webdataset", path=str(tmp_path / "d.tar")))
    with pytest.raises(ImportError, match="PyAV may read it"):  # it is listed, and told why
        tar.open(0)
    (tmp_path / "dog" / "b.wav").rename(tmp_path / "c.mp4")  # what libsndfile reads it reads
    assert sources.OpenFiles([str(tmp_path / "c.mp4")])(0).num_samples == 8000
