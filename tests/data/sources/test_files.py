import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile as sf

from sacjax import config as config_lib
from sacjax.data import decode
from sacjax.data.sources import files as sources
from sacjax.data.sources.files import FileClip
from sacjax.errors import UserError


def settings(**values):
    data = config_lib.stage().data
    data.update(values)
    return data


def tone(seconds=1.0, rate=8000, channels=1):
    x = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return np.repeat(x[:, None], channels, 1)


def write(path, samples=None, rate=8000, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, tone(rate=rate) if samples is None else samples, rate, **kwargs)
    return path


def wav_header(data_bytes, rate=8000, channels=1, bits=16):
    frame = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame, frame, bits)
    return (
        struct.pack("<4sI4s", b"RIFF", (data_bytes + 36) % 2**32, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", data_bytes)
    )


# --- folder -------------------------------------------------------------------------------------------------------------------


def test_folder(tmp_path):
    for name in (
        "dog/b.wav",
        "dog/deep/er/a.FLAC",
        "cat/c.ogg",
        "loose.wav",
        "cat/.hidden.wav",
        ".git/x.wav",
        "été/ñandú 鳥.wav",
    ):
        write(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("no sound")
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.names == [
        "cat/c.ogg",
        "dog/b.wav",
        "dog/deep/er/a.FLAC",
        "loose.wav",
        "été/ñandú 鳥.wav",
    ]
    assert recordings.labels == [("cat",), ("dog",), ("dog",), None, ("été",)]
    assert recordings.class_names == ("cat", "dog", "été")
    assert recordings.folds is None and recordings.splits is None and recordings.groups is None
    for i in range(len(recordings)):
        assert os.path.isabs(recordings.paths[i])
        assert len(decode.read(recordings.open(i), 8000, 0.0, 1.0)) == 8000


def test_a_name_that_is_not_utf8_can_be_read_and_written(tmp_path):
    write(tmp_path / "a" / "x.wav")
    try:
        os.rename(tmp_path / "a" / "x.wav", os.fsencode(tmp_path / "a") + b"/\xff.wav")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.names[0].encode() == rb"a/\xff.wav"
    assert recordings.open(0).num_samples == 8000


def test_a_folder_of_nothing_says_what_it_has(tmp_path):
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="no files"):
        sources.load(settings(source="folder", path=str(tmp_path)))
    (tmp_path / "dog" / "a.m4a").write_bytes(b"x")
    with pytest.raises(UserError, match="1 .m4a"):
        sources.load(settings(source="folder", path=str(tmp_path)))
    for path, message in (
        (str(tmp_path / "nowhere"), "there is no folder"),
        ("", "is empty: give the folder"),
    ):
        with pytest.raises(UserError, match=f"data.path:? {message}"):
            sources.load(settings(source="folder", path=path))
    with pytest.raises(UserError, match="did you mean 'folder'"):
        sources.load(settings(source="folders", path=str(tmp_path)))


def test_links_in_a_folder(tmp_path):
    outside = write(tmp_path / "outside" / "x.wav").parent
    root = write(tmp_path / "root" / "dog" / "a.wav").parent.parent
    (root / "dog" / "up").symlink_to(root)  # a loop
    (root / "dog" / "b.wav").symlink_to(root / "dog" / "a.wav")
    load = lambda **more: sources.load(settings(source="folder", path=str(root), **more))
    assert load().names == ["dog/a.wav", "dog/b.wav"]
    (root / "dog" / "lost.wav").symlink_to(root / "nothing.wav")
    assert load().names == ["dog/a.wav", "dog/b.wav"]
    (root / "cat").symlink_to(outside)
    with pytest.raises(
        UserError, match="cat' is a link out of the folder.*data.allow_outside_root"
    ):
        load()
    recordings = load(allow_outside_root=True)
    assert recordings.names == ["cat/x.wav", "dog/a.wav", "dog/b.wav"] and recordings.labels[0] == (
        "cat",
    )


# --- manifest -----------------------------------------------------------------------------------------------------------------


def manifest(tmp_path, text, name="list.csv", **more):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return sources.load(settings(source="manifest", path=str(tmp_path / name), **more))


def test_manifest_with_all_columns(tmp_path):
    for name in ("a.wav", "sub/b.wav", "é.wav"):
        write(tmp_path / name, tone(3.0))
    rows = [
        ["filename", "label", "fold", "split", "group", "start", "end"],
        ["a.wav", "dog", "1", "train", "g1", "", ""],
        ["sub/b.wav", "cat", "2", "test", "", "0.5", "1.5"],
        ["./sub/b.wav", "cat", "2", "test", "g2", "2", ""],
        ["é.wav", "", "3.0", "validation", "g3", "", "0.25"],
    ]
    loaded = [
        manifest(tmp_path, "\n".join(",".join(row) for row in rows)),
        manifest(
            tmp_path, "\ufeff" + "\r\n".join("\t".join(row) for row in rows) + "\r\n", "list.tsv"
        ),
        manifest(
            tmp_path,
            "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:])
            + "\n\n",
            "list.jsonl",
        ),
    ]
    for recordings in loaded:
        assert recordings.names == ["a.wav", "sub/b.wav#0.5", "sub/b.wav#2", "é.wav"]
        assert recordings.labels == [
            ("dog",),
            ("cat",),
            ("cat",),
            None,
        ] and recordings.class_names == ("cat", "dog")
        assert recordings.folds == [1, 2, 2, 3] and recordings.splits == [
            "train",
            "test",
            "test",
            "validation",
        ]
        assert recordings.groups == ["g1", "g2", "g2", "g3"]  # b.wav is one file
        assert [recordings.open(i).num_samples for i in range(4)] == [24000, 8000, 8000, 2000]
    part = loaded[0].open(1)
    np.testing.assert_allclose(part.read(100, 50), tone(3.0)[4100:4150], atol=1e-4)
    assert len(part.read(7990, 50)) == 10 and len(part.read(8000, 1)) == 0


def test_manifest_of_file_names_alone(tmp_path):
    write(tmp_path / "a.wav")
    recordings = manifest(tmp_path, "filename\na.wav\n")
    assert recordings.labels == [None] and recordings.class_names == () and recordings.folds is None


def test_several_labels(tmp_path):
    write(tmp_path / "a.wav"), write(tmp_path / "b.wav")
    text = "filename,label\na.wav,dog | cat|dog\nb.wav,dog\n"
    recordings = manifest(tmp_path, text, multi_label=True)
    assert recordings.labels == [("dog", "cat"), ("dog",)] and recordings.class_names == (
        "cat",
        "dog",
    )
    lines = '{"filename": "a.wav", "label": ["dog", "cat"]}\n{"filename": "b.wav", "label": 0}\n'
    recordings = manifest(tmp_path, lines, "list.jsonl", multi_label=True)
    assert recordings.labels == [("dog", "cat"), ("0",)]
    with pytest.raises(UserError, match="'a.wav' has several labels .*data.multi_label=True"):
        manifest(tmp_path, text)


@pytest.mark.parametrize("how", ["..", "absolute", "link", "folder link"])
def test_a_path_out_of_the_root_is_refused(tmp_path, how):
    write(tmp_path / "secret.wav")
    root = write(tmp_path / "root" / "a.wav").parent
    (root / "in.wav").symlink_to(tmp_path / "secret.wav")
    (root / "above").symlink_to(tmp_path)
    names = {
        "..": "sub/../../secret.wav",
        "absolute": str(tmp_path / "secret.wav"),
        "link": "in.wav",
    }
    text = f"filename,label\na.wav,x\n{names.get(how, 'above/secret.wav')},y\n"
    with pytest.raises(
        UserError, match="line 3: .*leads out of the manifest's folder; set data.allow_outside_root"
    ):
        manifest(root, text)
    assert manifest(root, text, allow_outside_root=True).open(1).num_samples == 8000


def test_paths_within_the_root_are_taken(tmp_path):
    write(tmp_path / "sub" / "a.wav"), write(tmp_path / "b.wav")
    (tmp_path / "c.wav").symlink_to(tmp_path / "b.wav")
    recordings = manifest(
        tmp_path, f"filename,label\nsub/../sub/a.wav,x\n{tmp_path}/b.wav,y\nc.wav,y\n"
    )
    assert recordings.names == ["sub/a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,label\na.wav,x\n", "line 2: there is no 'filename' .*file, label"),
        ("filename,label\na.wav,x\n,y\n", "line 3: there is no 'filename'"),
        ("filename,label\na.wav,x\n./a.wav,y\n", "'a.wav' is listed twice"),
        ("filename,label,fold\na.wav,x,one\n", "line 2: fold is 'one'"),
        ("filename,label,fold\na.wav,x,0\n", "line 2: fold is '0'; write a whole number from 1 on"),
        ("filename,label,fold\na.wav,x,1\nb.wav,x,\n", "line 3: fold is empty"),
        (
            "filename,label,split\na.wav,x,dev\n",
            "line 2: split is 'dev'; write train, validation or test",
        ),
        ("filename,label,start\na.wav,x,-1\n", "line 2: start is '-1'; write seconds"),
        ("filename,label,start\na.wav,x,nan\n", "line 2: start is 'nan'"),
        ("filename,label,start,end\na.wav,x,2,1\n", "line 2: end is 1, not after start 2"),
        ("filename,label,end\na.wav,x,0\n", "line 2: end is 0, not after start 0"),
        ("filename,label\nx.wav,x\ny.wav,x\n", "none of its 2 files exists"),
        ("filename,label\na\0.wav,x\n", "list.csv"),
        ("filename,label\n", "no recordings"),
        ("", "no recordings"),
    ],
)
def test_a_bad_manifest_names_its_line(tmp_path, text, message):
    write(tmp_path / "a.wav"), write(tmp_path / "b.wav")
    with pytest.raises(UserError, match=message) as error:
        manifest(tmp_path, text)
    assert "list.csv" in str(error.value)


def test_other_bad_manifests(tmp_path):
    with pytest.raises(UserError, match="line 1"):
        manifest(tmp_path, "[1]\n", "list.jsonl")
    with pytest.raises(UserError, match="not a readable manifest"):
        manifest(tmp_path, "{'filename'\n", "list.jsonl")
    (tmp_path / "latin.csv").write_bytes("filename,label\né.wav,x\n".encode("latin1"))
    with pytest.raises(UserError, match="not a readable manifest"):
        sources.load(settings(source="manifest", path=str(tmp_path / "latin.csv")))
    with pytest.raises(UserError, match="there is no manifest"):
        sources.load(settings(source="manifest", path=str(tmp_path / "nowhere.csv")))


# --- files --------------------------------------------------------------------------------------------------------------------

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
