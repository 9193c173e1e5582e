"""Embeddings against the encoders called by hand, NumPy's means and worked times; the command and its files."""

import sys

import jax
import numpy as np
import pytest
import soundfile as sf
from flax import nnx
from workdirs import RATE, config_of, random_values, write_workdir

from sacjax import models
from sacjax import stages as experiment
from sacjax.commands import embed
from sacjax.errors import UserError
from sacjax.train import checkpoint
from sacjax.views import make_preprocess

RNG = np.random.default_rng(0)
WINDOW = 4000
LENGTHS = np.array([4000, 2500, 900], np.int32)
KINDS = {
    "wav2vec2": "contrastive",
    "small_cnn": "classification",
}  # a workdir of pretraining, and one of a classifier


def noise(*shape):
    return (0.1 * RNG.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """{name: (workdir, the network in it)}."""
    root = tmp_path_factory.mktemp("networks")
    return {
        name: (root / name, write_workdir(root / name, name, kind)) for name, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def embedders(networks):
    return {name: embed.load(workdir) for name, (workdir, _) in networks.items()}


@pytest.fixture(scope="module")
def resnet():
    """An embedder without a workdir."""
    stage = config_of("spectrogram_resnet").supervised
    make = lambda: models.build_encoder(stage.model, num_features=16, rngs=nnx.Rngs(0))
    return embed.Embedder(stage, random_values(make))


@pytest.fixture(scope="module")
def batch():
    """Audio of three lengths in one batch, with what is not silence beyond them."""
    return noise(3, WINDOW)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder with a short clip, one of 1.25 s at another rate, one of 1.3 s, and one that is no sound."""
    root = tmp_path_factory.mktemp("sounds")
    sf.write(root / "a.wav", noise(3000), RATE)
    sf.write(root / "b.wav", noise(13781), 11025)
    sf.write(root / "c.wav", noise(10400), RATE)
    (root / "broken.wav").write_text("this is no sound")
    return root


def run(capsys, *args):
    code = embed.main(list(map(str, args)))
    out, err = capsys.readouterr()
    return code, out, err


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", KINDS)
def test_clips_are_means_of_the_encoders_valid_frames(networks, embedders, batch, name):
    network, stage = networks[name][1], config_of(name).supervised
    network.eval()
    rows = np.zeros(3, np.int32)

    @jax.jit
    def encode(audio, length):  # by the network from before it was saved
        sound = {"audio": audio, "length": length, "label": rows, "mask": rows, "index": rows}
        made = make_preprocess(stage, 1)(sound)
        output = network.encoder(made["inputs"], made["input_length"])
        return output.frames, output.lengths

    frames, counts = map(np.asarray, encode(batch, LENGTHS))
    assert len(set(counts.tolist())) == 3
    want = [np.mean(frames[k, : counts[k]], 0) for k in range(3)]
    assert np.ptp(want, 0).max() > 0.05
    clips = embedders[name].clips(batch, LENGTHS)
    assert clips.dtype == np.float32 and clips.shape == (3, embedders[name].features)
    np.testing.assert_allclose(clips, want, atol=1e-4)
    own, own_counts = embedders[name].frames(batch, LENGTHS)
    np.testing.assert_array_equal(own_counts, counts)
    np.testing.assert_allclose(own, frames, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_clip_is_embedded_alone_as_in_a_batch(embedders, batch, name):
    together, frames = embedders[name].clips(batch, LENGTHS), embedders[name].frames(batch, LENGTHS)
    alone = np.zeros([1, 2600], np.float32)  # another padding
    alone[0, :2500] = batch[1, :2500]
    np.testing.assert_allclose(
        embedders[name].clips(alone, LENGTHS[1:2])[0], together[1], atol=2e-5
    )
    own, count = embedders[name].frames(alone, LENGTHS[1:2])
    assert count[0] == frames[1][1]
    np.testing.assert_allclose(own[0, : count[0]], frames[0][1, : count[0]], atol=1e-4)


def test_int16_is_the_same_sound(embedders, batch):
    ints = np.round(batch * 32768).astype(np.int16)
    got = embedders["wav2vec2"].clips(ints, LENGTHS)
    np.testing.assert_allclose(
        got, embedders["wav2vec2"].clips(ints.astype(np.float32) / 32768, LENGTHS), atol=1e-6
    )


def test_times_of_frames_as_worked_by_hand(embedders, resnet):
    # wav2vec2: strides 5·2·2·2·2 = 80; a frame sees 10 + 2·5 + 2·10 + 2·20 + 1·40 = 120 samples.
    waves = embedders["wav2vec2"]
    assert waves.hop == 80 and waves.frame_seconds == 0.01
    np.testing.assert_allclose(waves.frame_times(4000), (59.5 + 80 * np.arange(49)) / 8000)
    # small_cnn: frames at 0, 128, 256, 384 are pooled to one, whose middle is 192 (but for half a sample); then every 512.
    cnn = embedders["small_cnn"]
    assert cnn.hop == 512
    np.testing.assert_allclose(cnn.frame_times(4000), (191.5 + 512 * np.arange(8)) / 8000)
    # spectrogram_resnet: three strides of 2 of frames 128 apart, the first at 0 (half a sample before it: cut).
    np.testing.assert_allclose(
        resnet.frame_times(4000), [0, *(np.arange(1, 4) * 1024 - 0.5) / 8000]
    )
    np.testing.assert_allclose(cnn.frame_times(100), [100 / 8000])  # within the clip


@pytest.mark.parametrize("name", [*KINDS, "spectrogram_resnet"])
def test_frames_are_counted_as_the_encoder_does(embedders, resnet, batch, name):
    embedder = resnet if name == "spectrogram_resnet" else embedders[name]
    lengths = np.array(
        [1, 119, 120, 199, 200, 384, 896, 1023, 1024, 2047, 2048, 3333, 4000], np.int32
    )
    _, counts = embedder.frames(np.resize(batch, [len(lengths), WINDOW]), lengths)
    assert [embedder.frame_count(int(n)) for n in lengths] == counts.tolist()


def test_layers(networks, embedders, batch):
    workdir, network = networks["wav2vec2"]
    network.eval()
    output = jax.jit(lambda audio, length: network.encoder(audio, length, hidden_states=True))(
        batch, LENGTHS
    )
    states = np.asarray(output.hidden_states)
    assert len(states) == 3  # the input and two layers
    clip = lambda frames: [
        x[:n].mean(0) for x, n in zip(frames, output.lengths.tolist(), strict=True)
    ]
    for layer, frames in ((0, states[0]), (2, states[2]), ("mean", states.mean(0))):
        got = embed.load(workdir, layer=layer).clips(batch, LENGTHS)
        np.testing.assert_allclose(got, clip(frames), atol=1e-3, err_msg=str(layer))
    assert np.abs(states[2] - states[0]).max() > 0.1  # else the above says little


@pytest.mark.parametrize(
    ("name", "layer"), [("small_cnn", 0), ("small_cnn", "mean"), ("wav2vec2", 3), ("wav2vec2", -2)]
)
def test_layers_that_there_are_not(networks, name, layer):
    message = (
        "no hidden states" if name == "small_cnn" else r"layers 0 \(its Transformer's input\) to 2"
    )
    with pytest.raises(UserError, match=f"--layer is {layer}: {name} has {message}"):
        embed.load(networks[name][0], layer=layer)


def test_parameters_are_arguments(networks, batch):
    embedder = embed.load(networks["small_cnn"][0])
    before = np.asarray(embedder.clips(batch, LENGTHS))
    embedder.variables = jax.tree.map(lambda x: x * 0 + 0.1, embedder.variables)
    after = np.asarray(embedder.clips(batch, LENGTHS))
    assert np.abs(after - before).max() > 1e-3 and embedder._clips._cache_size() == 1


def test_fresh_parameters(networks, embedders, batch):
    one, same, other = (
        embed.untrained(embedders["small_cnn"], seed).clips(batch, LENGTHS) for seed in (1, 1, 2)
    )
    trained = np.asarray(embedders["small_cnn"].clips(batch, LENGTHS))
    assert one.shape == trained.shape and np.array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - trained).max() > 1e-3


def test_a_run_of_training(tmp_path, batch):
    """The trained classifier's logits follow from the clip embeddings: its pooling is the mean."""
    experiment.run(config_of("small_cnn"), tmp_path)
    trained = checkpoint.load_trained(tmp_path)
    clips = embed.load(tmp_path).clips(batch, LENGTHS)
    head = trained.model.head
    want = np.asarray(clips) @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
    np.testing.assert_allclose(trained.apply(batch, LENGTHS), want, atol=1e-4)
    with pytest.raises(UserError, match="no checkpoint of stage finetune"):
        embed.load(tmp_path, stage="finetune")


def test_pieces_stand_where_the_whole_has_them(embedders):
    """small_cnn sees little around a frame: away from the joints its frames are those of the sound in one piece."""
    embedder = embedders["small_cnn"]
    stage = embedder.stage.copy_and_resolve_references()
    stage.frontend.normalize, stage.frontend.top_db = "none", None
    make = lambda: models.build_encoder(stage.model, num_features=16, rngs=nnx.Rngs(0))
    embedder = embed.Embedder(stage, random_values(make))
    sound = noise(11000)
    pieces, whole = embedder.embed_frames([sound])[0], embedder.embed_frames([sound], 11000)[0]
    assert (
        len(pieces)
        == len(whole)
        == embedder.frame_count(11000)
        == len(embedder.frame_times(11000))
        == 21
    )
    joints = {6, 7, 13, 14}  # 7 frames of 512 samples a piece of 4000
    inner = [k for k in range(21) if k not in joints]
    np.testing.assert_allclose(pieces[inner], whole[inner], atol=1e-4)
    assert np.abs(np.diff(whole, axis=0)).max() > 0.1
    assert embedder.embed_frames([sound[:3000]])[0].shape == (embedder.frame_count(3000), 8)


def test_many_sounds_are_those_alone(embedders):
    sounds = [
        noise(n) for n in (500, 4000, 9000, 50, 4001)
    ] * 4  # more pieces than a batch has rows
    together = embedders["wav2vec2"].embed_frames(sounds)
    assert [len(x) for x in together] == [max((n - 120) // 80 + 1, 1) for n in map(len, sounds)]
    for k in (0, 2, 4, 17):
        np.testing.assert_allclose(
            together[k], embedders["wav2vec2"].embed_frames([sounds[k]])[0], atol=1e-4
        )


def test_command_clips(networks, embedders, sounds, tmp_path, capsys):
    out = tmp_path / "deep" / "vectors.npz"
    code, printed, err = run(
        capsys, "--checkpoint", networks["wav2vec2"][0], sounds, "--output", out
    )
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
    args = ("--checkpoint", networks["small_cnn"][0], sounds, "--frames", "--output")
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
        networks["wav2vec2"][0],
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
        networks["small_cnn"][0],
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


@pytest.mark.parametrize("frames", [[], ["--frames"]])
def test_nothing_readable_is_exit_code_1(networks, sounds, tmp_path, capsys, frames):
    out = tmp_path / "v.npz"
    code, _, err = run(
        capsys,
        "--checkpoint",
        networks["small_cnn"][0],
        sounds / "broken.wav",
        "--output",
        out,
        *frames,
    )
    assert code == 1 and "broken.wav" in err and not out.exists()


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "v.npz"
    embed.write(path, ["old"], {"embeddings": np.ones([1, 2])})

    def full_disk(out, **arrays):
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(UserError, match="v.npz: cannot be written: No space left"):
        embed.write(path, ["new"], {"embeddings": np.zeros([1, 2])})
    assert read_npz(path)["files"] == ["old"] and list(tmp_path.iterdir()) == [path]


def test_names_that_are_not_utf8(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet is written by pyarrow")
    for name in ("v.npz", "v.parquet"):
        embed.write(tmp_path / name, ["a\udcff.wav"], {"embeddings": np.ones([1, 2], np.float32)})
    assert read_npz(tmp_path / "v.npz")["files"].tolist() == ["a\\udcff.wav"]
    assert pq.read_table(tmp_path / "v.parquet")["file"].to_pylist() == ["a\\udcff.wav"]


def test_mistakes_of_the_user(networks, sounds, tmp_path, monkeypatch):
    start = ["--checkpoint", str(networks["small_cnn"][0]), str(sounds / "a.wav"), "--output"]
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
