"""ESC-50 and FSDD builders: a local folder, a downloaded zip (from localhost), protocols."""

import csv
import functools
import http.server
import io
import os
import pickle
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sacjax import config as config_lib
from sacjax.data.sources.tfds import load_tfds
from sacjax.data.tfds_builders import esc50, fsdd, published
from sacjax.errors import UserError

ROOT = Path(os.environ.get("SACJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
COLUMNS = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]


def pcm(seed: int, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20000, 20000, n).astype(np.int16)


def wav(samples: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def esc_files(targets=range(50), take="A", extra: dict | None = None) -> dict[str, bytes]:
    """Returns {name: bytes} in the published layout.

    One clip a class, folds 1 to 5, two takes of one source.
    """
    rows, files = [], {}
    for k, target in enumerate(targets):
        name = f"{k % 5 + 1}-{1000 + k // 2}-{take}-{target}.wav"
        category = esc50.CLASSES[target]
        rows.append(
            [name, k % 5 + 1, target, category, category in esc50.ESC10, 1000 + k // 2, take]
        )
        files[f"audio/{name}"] = wav(pcm(target), 44100)
    table = io.StringIO()
    csv.writer(table).writerows([COLUMNS, *rows])
    return files | {"meta/esc50.csv": table.getvalue().encode()} | (extra or {})


def fsdd_files() -> dict[str, bytes]:
    files = {
        f"recordings/{digit}_{speaker}_{index}.wav": wav(pcm(digit * 100 + index), 8000)
        for digit in range(10) for speaker in ("theo", "lucas") for index in (0, 4, 5, 12)
    }  # fmt: skip
    return files | {"README.md": b"not audio", "recordings/notes.txt": b"not audio"}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes], top: str = "ESC-50-master/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def data_config(tmp_path: Path, name: str, path: str | Path = "") -> object:
    data = config_lib.stage().data
    data.source, data.name, data.path, data.data_dir = (
        "tfds",
        name,
        str(path),
        str(tmp_path / "tfds"),
    )
    return data


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/www on localhost; yields (folder, url, requests seen)."""
    www, seen = tmp_path / "www", []
    www.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            seen.append(self.path)

    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(www))
    )
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield www, f"http://127.0.0.1:{httpd.server_port}", seen
    httpd.shutdown()
    httpd.server_close()


def test_classes():
    assert len(set(esc50.CLASSES)) == 50 and len(esc50.ESC10) == 10
    assert (esc50.CLASSES[0], esc50.CLASSES[30], esc50.CLASSES[49]) == (
        "dog",
        "door_wood_knock",
        "hand_saw",
    )


def test_esc50_from_folder(tmp_path):
    root = write_folder(tmp_path / "esc", esc_files())
    recordings = load_tfds(data_config(tmp_path, "esc50", root))
    assert len(recordings) == 50 and recordings.class_names == tuple(esc50.CLASSES)
    assert recordings.splits is None and sorted(set(recordings.folds)) == [1, 2, 3, 4, 5]
    for i, name in enumerate(recordings.names):  # <fold>-<source>-<take>-<target>.wav
        fold, source, _, target = name.removesuffix(".wav").split("-")
        assert recordings.folds[i] == int(fold) and recordings.groups[i] == source
        assert recordings.labels[i] == (esc50.CLASSES[int(target)],)
        clip = recordings.open(i)
        assert (clip.sample_rate, clip.num_samples) == (44100, 400)
        np.testing.assert_array_equal(clip.read(0, 999)[:, 0] * 32768, pcm(int(target)))
    again = pickle.loads(pickle.dumps(recordings.open))  # as a Grain worker gets it, after use
    np.testing.assert_array_equal(again(3).read(5, 7), recordings.open(3).read(5, 7))
    assert "tensorflow" not in sys.modules


def test_folds_that_are_numbered_from_0_are_told_their_own_numbers(tmp_path, capsys):
    files = esc_files()
    head, *rows = csv.reader(io.StringIO(files["meta/esc50.csv"].decode()))
    table = io.StringIO()
    lower = [[name, int(fold) - 1, *others] for name, fold, *others in rows]
    csv.writer(table).writerows([head, *lower])
    root = write_folder(tmp_path / "esc", files | {"meta/esc50.csv": table.getvalue().encode()})
    recordings = load_tfds(data_config(tmp_path, "esc50", root))
    told = "data.name esc50, fold: data.fold=1 is 0, 2 is 1, 3 is 2, 4 is 3, 5 is 4\n"
    assert told in capsys.readouterr().err
    own = {name: int(fold) + 1 for name, fold, *_ in lower}
    assert recordings.folds == [own[name] for name in recordings.names]


def test_esc10_config_and_mistakes(tmp_path):
    root = write_folder(tmp_path / "esc", esc_files())
    recordings = load_tfds(data_config(tmp_path, "esc50/esc10", root))
    assert recordings.class_names == tuple(esc50.ESC10) and len(recordings) == 10
    only10 = write_folder(tmp_path / "esc10", esc_files([0, 1, 10, 11, 12, 20, 21, 38, 40, 41]))
    assert len(load_tfds(data_config(tmp_path, "esc50/esc10", only10))) == 10
    with pytest.raises(UserError, match="only the ESC-10 part.*esc50/esc10"):
        load_tfds(data_config(tmp_path, "esc50", only10))
    with pytest.raises(UserError, match="no config 'esc11'; did you mean 'esc10'"):
        load_tfds(data_config(tmp_path, "esc50/esc11", root))
    with pytest.raises(UserError, match="data.path.*nowhere"):
        load_tfds(data_config(tmp_path, "esc50", tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no file 'meta/esc50.csv'"):
        load_tfds(data_config(tmp_path, "esc50", write_folder(tmp_path / "other", {"x/y": b""})))


def test_two_local_copies_never_mix_and_a_change_is_seen(tmp_path):
    first = write_folder(tmp_path / "a", esc_files())
    second = write_folder(tmp_path / "b", esc_files(take="B"))
    assert "-A-" in load_tfds(data_config(tmp_path, "esc50", first)).names[0]
    assert "-B-" in load_tfds(data_config(tmp_path, "esc50", second)).names[0]
    name = load_tfds(data_config(tmp_path, "esc50", first)).names[0]
    (first / "audio" / name).write_bytes(wav(pcm(7, 99), 44100))
    recordings = load_tfds(data_config(tmp_path, "esc50", first))
    assert recordings.open(recordings.names.index(name)).num_samples == 99


def test_prepared_once_and_redone_when_broken(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "esc", esc_files())
    data = data_config(tmp_path, "esc50", root)
    calls = []
    real = esc50.Esc50._generate_examples
    monkeypatch.setattr(
        esc50.Esc50, "_generate_examples", lambda self, *a: calls.append(1) or real(self, *a)
    )
    names = load_tfds(data).names
    assert load_tfds(data).names == names and len(calls) == 1
    (shard,) = tmp_path.glob("tfds/local-*/esc50/esc50/1.0.0/*.array_record-*")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert load_tfds(data).names == names and len(calls) == 2
    shard.unlink()
    assert load_tfds(data).open(0).num_samples == 400 and len(calls) == 3
    (shard.parent / "dataset_info.json").write_text("{")
    assert load_tfds(data).names == names and len(calls) == 4


def test_undecodable_file_stays_listed(tmp_path):
    files = esc_files()
    bad = sorted(name for name in files if name.startswith("audio/"))[3]
    recordings = load_tfds(
        data_config(tmp_path, "esc50", write_folder(tmp_path / "esc", files | {bad: b"not audio"}))
    )
    i = recordings.names.index(bad.removeprefix("audio/"))
    assert len(recordings) == 50
    with pytest.raises(ValueError, match="no samples"):
        recordings.open(i)


def test_download_from_zip(tmp_path, server, monkeypatch):
    www, url, seen = server
    write_zip(www / "master.zip", esc_files())
    monkeypatch.setattr(esc50.Esc50, "URL", f"{url}/master.zip")
    recordings = load_tfds(data_config(tmp_path, "esc50"))
    assert len(recordings) == 50 and recordings.open(0).num_samples == 400
    assert len(load_tfds(data_config(tmp_path, "esc50/esc10"))) == 10
    assert len(seen) == 1  # downloaded once for both configs
    assert not list(tmp_path.rglob("*.wav")), "nothing is extracted"


def test_failed_downloads(tmp_path, server, monkeypatch):
    www, url, _ = server
    monkeypatch.setattr(esc50.Esc50, "URL", f"{url}/missing.zip")
    with pytest.raises(UserError, match="cannot download .*missing.zip.*data.path"):
        load_tfds(data_config(tmp_path, "esc50"))
    monkeypatch.setattr(esc50.Esc50, "URL", "http://127.0.0.1:9/x.zip")
    with pytest.raises(UserError, match="cannot download"):
        load_tfds(data_config(tmp_path, "esc50"))
    whole = write_zip(www / "cut.zip", esc_files()).read_bytes()
    (www / "cut.zip").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(esc50.Esc50, "URL", f"{url}/cut.zip")
    with pytest.raises(UserError, match="not a complete zip.*delete it"):
        load_tfds(data_config(tmp_path, "esc50"))
    assert not list(tmp_path.rglob("*.partial"))


def test_archive_cannot_leave_its_folder(tmp_path):
    evil = {"../../evil.wav": b"x", "/evil.wav": b"x"}
    (tmp_path / "in").mkdir()
    archive = write_zip(tmp_path / "in" / "a.zip", esc_files() | evil, "")
    recordings = load_tfds(
        data_config(tmp_path, "esc50", archive)
    )  # a zip may also be given as data.path
    assert len(recordings) == 50 and not list(tmp_path.rglob("evil*"))
    files = esc_files()
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(pcm(1), 44100))
    name = next(n for n in files if n.startswith("audio/")).removeprefix("audio/")
    files["meta/esc50.csv"] = files["meta/esc50.csv"].replace(name.encode(), b"../../secret.wav")
    root = write_folder(tmp_path / "esc", files)
    with pytest.raises(UserError, match="secret.wav' leaves the data set's folder: refused"):
        load_tfds(data_config(tmp_path, "esc50", root))


def test_zip_bomb_is_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a/b": b"0" * 1000})
    monkeypatch.setattr(published, "MAX_FILE", 999)
    with pytest.raises(UserError, match="unpacks to 1000 bytes: refused"):
        published.Layout(archive).read("a/b")


@pytest.mark.parametrize("zipped", [False, True])
def test_fsdd(tmp_path, server, monkeypatch, zipped):
    path = ""
    if zipped:
        write_zip(server[0] / "v1.0.10.zip", fsdd_files(), "free-spoken-digit-dataset-1.0.10/")
        monkeypatch.setattr(fsdd.Fsdd, "URL", f"{server[1]}/v1.0.10.zip")
    else:
        path = write_folder(tmp_path / "fsdd", fsdd_files())
    recordings = load_tfds(data_config(tmp_path, "fsdd", path))
    assert (
        len(recordings) == 80
        and recordings.class_names == tuple("0123456789")
        and recordings.folds is None
    )
    for i, name in enumerate(recordings.names):
        digit, speaker, index = name.removesuffix(".wav").split("_")
        assert (
            recordings.labels[i] == (digit,) and recordings.groups is None
        )  # the protocol shares speakers
        assert recordings.splits[i] == ("test" if int(index) < 5 else "train")
        clip = recordings.open(i)
        assert clip.sample_rate == 8000
        np.testing.assert_array_equal(
            clip.read(0, 400)[:, 0] * 32768, pcm(int(digit) * 100 + int(index))
        )


def test_fsdd_leave_one_speaker_out(tmp_path):
    recordings = load_tfds(
        data_config(tmp_path, "fsdd/loso", write_folder(tmp_path / "fsdd", fsdd_files()))
    )
    assert len(recordings) == 80 and recordings.splits is None
    for name, fold, group in zip(
        recordings.names, recordings.folds, recordings.groups, strict=True
    ):
        assert group == name.split("_")[1] and fold == {"lucas": 1, "theo": 2}[group]


def test_other_rates_and_channels_become_the_data_sets_own(tmp_path):
    tone = np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440) * 0.5
    files = fsdd_files() | {"recordings/3_theo_7.wav": wav(np.stack([tone, tone], 1), 16000)}
    recordings = load_tfds(data_config(tmp_path, "fsdd", write_folder(tmp_path / "fsdd", files)))
    audio = recordings.open(recordings.names.index("3_theo_7.wav")).read(0, 9000)
    assert audio.shape == (8000, 1)
    np.testing.assert_allclose(
        audio[500:-500, 0],
        np.sin(np.arange(8000) / 8000 * 2 * np.pi * 440)[500:-500] * 0.5,
        atol=2e-3,
    )


@pytest.mark.skipif(not (ROOT / "esc10").is_dir(), reason=f"no {ROOT}/esc10: set SACJAX_DATA")
def test_real_esc10_table(monkeypatch, tmp_path):
    monkeypatch.setattr(
        esc50.Esc50, "_decode", lambda self, name, data: np.zeros(8, np.int16)
    )  # the table, not the audio
    recordings = load_tfds(data_config(tmp_path, "esc50/esc10", ROOT / "esc10"))
    assert len(recordings) == 400 and len(recordings.class_names) == 10
    assert np.bincount(recordings.folds).tolist() == [0, 80, 80, 80, 80, 80]
    homes = {}
    for group, fold in zip(recordings.groups, recordings.folds, strict=True):
        assert homes.setdefault(group, fold) == fold


@pytest.mark.skipif(not (ROOT / "fsdd").is_dir(), reason=f"no {ROOT}/fsdd: set SACJAX_DATA")
def test_real_fsdd(tmp_path):
    recordings = load_tfds(data_config(tmp_path, "fsdd", ROOT / "fsdd"))
    assert len(recordings) == 3000 and recordings.splits.count("test") == 300
    i = recordings.names.index("7_jackson_32.wav")
    expected, rate = soundfile.read(
        ROOT / "fsdd" / "recordings" / "7_jackson_32.wav", dtype="float32"
    )
    np.testing.assert_array_equal(recordings.open(i).read(0, 1 << 20)[:, 0], expected)
    assert rate == recordings.open(i).sample_rate
