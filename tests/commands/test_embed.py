"""`sacjax embed`: its files, against the encoder's windows and frames taken by hand."""

import sys

import numpy as np
import pytest
import soundfile as sf
from workdirs import RATE

from sacjax import inference
from sacjax.commands import embed
from sacjax.errors import UserError

WINDOW = 4000


@pytest.fixture(scope="module")
def embedders(networks):
    return {name: inference.load(workdir).embedder() for name, workdir in networks.items()}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder: a short clip, 1.25 s at another rate, 1.3 s, and one that is no sound."""
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for name, samples, rate in (("a", 3000, RATE), ("b", 13781, 11025), ("c", 10400, RATE)):
        sf.write(root / f"{name}.wav", 0.1 * rng.standard_normal(samples), rate)
    (root / "broken.wav").write_text("this is no sound")
    return root


def run(capsys, *args):
    code = embed.main(list(map(str, args)))
    out, err = capsys.readouterr()
    return code, out, err


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_command_clips(networks, embedders, sounds, tmp_path, capsys):
    out = tmp_path / "deep" / "vectors.npz"
    code, printed, err = run(capsys, "--checkpoint", networks["wav2vec2"], sounds, "--output", out)
    assert code == 0 and "3 files, 3 vectors of 32" in printed
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        f"skipped {sounds / 'broken.wav'}"
    ]
    got = read_npz(out)
    assert set(got) == {"files", "embeddings"} and got["embeddings"].dtype == np.float32
    assert got["files"].tolist() == [str(sounds / name) for name in ("a.wav", "b.wav", "c.wav")]
    assert list(out.parent.iterdir()) == [out]
    # 10,400 samples in windows of 4,000 at most 2,000 apart: five of them, 1,600 apart.
    long = sf.read(sounds / "c.wav", dtype="int16")[0]
    windows = np.stack([long[k * 1600 :][:WINDOW] for k in range(5)])
    want = np.mean(embedders["wav2vec2"].clips(windows, np.full(5, WINDOW)), 0)
    np.testing.assert_allclose(got["embeddings"][2], want, atol=1e-4)
    short = sf.read(sounds / "a.wav", dtype="int16")[0][None]
    np.testing.assert_allclose(
        got["embeddings"][0], embedders["wav2vec2"].clips(short, np.array([3000]))[0], atol=1e-4
    )


def test_command_frames(networks, embedders, sounds, tmp_path, capsys):
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet is written by pyarrow")
    args = ("--checkpoint", networks["small_cnn"], sounds, "--frames", "--output")
    assert (
        run(capsys, *args, tmp_path / "f.npz")[0] == 0
        and run(capsys, *args, tmp_path / "f.parquet")[0] == 0
    )
    got, table = read_npz(tmp_path / "f.npz"), pq.read_table(tmp_path / "f.parquet").to_pydict()
    cnn = embedders["small_cnn"]
    # b.wav is 13781 samples of 11025 Hz, 10,000 of 8 kHz.
    counts = [cnn.frame_count(n) for n in (3000, 10000, 10400)]
    assert got["offsets"].tolist() == [0, *np.cumsum(counts)] and got[
        "frame_seconds"
    ] == pytest.approx(0.064)
    assert got["embeddings"].shape == (sum(counts), 8) and got["embeddings"].dtype == np.float32
    for k, name in enumerate(("a.wav", "c.wav")):
        sound = sf.read(sounds / name, dtype="int16")[0]
        part = slice(*got["offsets"][[0, 1] if k == 0 else [2, 3]])
        np.testing.assert_allclose(got["embeddings"][part], cnn.embed_frames([sound])[0], atol=1e-5)
        np.testing.assert_allclose(got["times"][part], cnn.frame_times(len(sound)))
    assert table["file"] == np.repeat(got["files"], counts).tolist()
    np.testing.assert_array_equal(table["embedding"], got["embeddings"])
    np.testing.assert_array_equal(table["time"], got["times"])


@pytest.mark.parametrize("frames", [False, True])
def test_seconds_is_the_window_that_the_encoder_hears(
    networks, embedders, sounds, tmp_path, capsys, frames
):
    """A window that holds the longest sound gives what the network makes of each in one piece."""
    args = [
        "--checkpoint",
        networks["wav2vec2"],
        sounds,
        "--output",
        tmp_path / "v.npz",
        "--seconds",
        1.3,
    ]
    assert run(capsys, *args, *["--frames"] * frames)[0] == 0
    got, sound = read_npz(tmp_path / "v.npz"), sf.read(sounds / "c.wav", dtype="int16")[0]
    want = np.asarray(embedders["wav2vec2"].frames(sound[None], np.array([len(sound)]))[0][0])
    have = got["embeddings"][slice(*got["offsets"][2:4])] if frames else got["embeddings"][2]
    np.testing.assert_allclose(have, want if frames else want.mean(0), atol=1e-4)
    with pytest.raises(UserError, match="--seconds is -1: it must be more than 0"):
        embed.main([*map(str, args[:-1]), "-1"])


def test_command_parquet_of_clips(networks, sounds, tmp_path, capsys):
    pa = pytest.importorskip("pyarrow", reason="parquet is written by pyarrow")
    import pyarrow.parquet as pq

    args = (
        "--checkpoint",
        networks["small_cnn"],
        sounds / "a.wav",
        sounds / "c.wav",
        "--output",
    )
    assert (
        run(capsys, *args, tmp_path / "v.npz")[0] == 0
        and run(capsys, *args, tmp_path / "v.parquet")[0] == 0
    )
    table, want = pq.read_table(tmp_path / "v.parquet"), read_npz(tmp_path / "v.npz")
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert table["file"].to_pylist() == want["files"].tolist()
    np.testing.assert_array_equal(table["embedding"].to_pylist(), want["embeddings"])
    model = inference.load(networks["small_cnn"])  # the library gives what the command writes
    np.testing.assert_array_equal(model.embed(want["files"].tolist()), want["embeddings"])


@pytest.mark.parametrize("frames", [[], ["--frames"]])
def test_nothing_readable_is_exit_code_1(networks, sounds, tmp_path, capsys, frames):
    out = tmp_path / "v.npz"
    code, _, err = run(
        capsys,
        "--checkpoint",
        networks["small_cnn"],
        sounds / "broken.wav",
        "--output",
        out,
        *frames,
    )
    assert code == 1 and "broken.wav" in err and not out.exists()


def test_mistakes_of_the_user(networks, sounds, tmp_path, monkeypatch):
    start = ["--checkpoint", str(networks["small_cnn"]), str(sounds / "a.wav"), "--output"]
    with pytest.raises(UserError, match=r"v.csv': its name must end in .npz or .parquet"):
        embed.main([*start, str(tmp_path / "v.csv")])
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match="that is a folder"):
        embed.main([*start, str(tmp_path / "folder.npz")])
    with pytest.raises(UserError, match="--layer is 'top'"):
        embed.main([*start, str(tmp_path / "v.npz"), "--layer", "top"])
    with pytest.raises(UserError, match="not a workdir"):
        embed.main(
            ["--checkpoint", str(tmp_path), str(sounds), "--output", str(tmp_path / "v.npz")]
        )
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        embed.main([*start, str(tmp_path / "v.parquet")])
