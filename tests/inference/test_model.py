"""`Model.predict` and `embed` on files, folders and arrays, ensembles, and what `load` takes."""

import csv
import json
import os
import shutil

import crossings
import numpy as np
import pytest
import soundfile as sf
from crossings import RATE, sine, tone
from workdirs import write_best_and_last

import sacjax
from sacjax import inference
from sacjax.commands import embed, predict, train
from sacjax.convert.huggingface import save_huggingface
from sacjax.errors import UserError


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def test_files_of_any_rate_length_and_channels(tmp_path):
    tone(tmp_path / "a.wav", 3000, rate=44100)
    tone(tmp_path / "sub" / "b.flac", 200, seconds=3.3, rate=22050, channels=2)
    tone(tmp_path / "sub" / "c.WAV", 2500, seconds=0.03, rate=16000)
    tone(tmp_path / "d.ogg", 300, rate=48000)
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / ".hidden.wav").write_text("not looked at")
    found = crossings.model().predict(tmp_path)
    best = {
        os.path.relpath(name, tmp_path): top[0][0]
        for name, top in zip(found.names, found.top(), strict=True)
    }
    assert best == {"a.wav": "high", "d.ogg": "low", "sub/b.flac": "low", "sub/c.WAV": "high"}
    assert found.bad == {} and found.labels == ("high", "low", "other")
    assert found.probabilities.shape == (4, 3) and len(found) == 4
    np.testing.assert_allclose(found.probabilities.sum(1), 1)


def test_a_file_a_list_of_files_and_folders_or_arrays(tmp_path):
    """The same sound by a path, by text, in a list, in a folder, as array, and as int16."""
    model, path = crossings.model(), tmp_path / "sounds" / "a.wav"
    text, want = tone(path, 3000), softmax([1, 0, 0])
    folder = tmp_path / "sounds"
    for sounds, rows in ((path, 1), (text, 1), ([text], 1), (folder, 1), ([path, str(folder)], 2)):
        found = model.predict(sounds)
        assert found.names == [text] * rows  # a file that is named twice keeps both rows
        np.testing.assert_allclose(found.probabilities, [want] * rows)
    arrays = [sine(3000), sine(200).astype(np.float32), np.stack([sine(200), 0 * sine(200)])]
    arrays += [np.round(32767 * sine(3000)).astype(np.int16)]
    found = model.predict(arrays)
    assert found.names == ["0", "1", "2", "3"]
    assert [top[0][0] for top in found.top()] == ["high", "low", "low", "high"]
    assert model.predict(sine(200)).top() == [[("low", pytest.approx(want[0]))]]
    # Of twice the rate: at the model's own rate it is an octave lower, and then low.
    assert model.predict(sine(1500, rate=2 * RATE)).top()[0][0][0] == "low"
    assert model.predict(sine(1500, rate=2 * RATE), 2 * RATE).top()[0][0][0] == "high"


def test_torch_goes_in():
    torch = pytest.importorskip("torch", reason="needs torch")
    sound = torch.tensor(sine(3000), requires_grad=True)
    assert crossings.model().predict([sound]).top()[0][0][0] == "high"


def test_top_k_is_most_probable_first_and_ends_at_the_labels():
    found = crossings.model(scale=2.0).predict([sine(200), sine(3000)])
    one, rest = softmax([2, 0, 0])[:2]
    assert found.top(2) == [
        [("low", pytest.approx(one)), ("high", pytest.approx(rest))],
        [("high", pytest.approx(one)), ("low", pytest.approx(rest))],
    ]
    assert [len(top) for top in found.top(99)] == [3, 3]


def test_long_clips_by_mean_logits_of_windows():
    # 1.5 s in five windows of 0.5 s: 0 to 0.5, 0.25 to 0.75, … ; the last two are high.
    time = np.arange(12000) / RATE
    sound = np.where(time < 1.0, sine(200, 1.5), sine(3900, 1.5))
    found = crossings.model(scale=4.0).predict(sound)
    want = softmax(np.array([4 * 2 / 5, 4 * 3 / 5, 0.0]))
    np.testing.assert_allclose(found.probabilities, [want], atol=1e-6)


def test_ensembles_average_probabilities_each_at_its_own_rate(tmp_path):
    models = [crossings.model(), crossings.model(scale=2.0, rate=44100)]
    found = inference.ensemble(models, tone(tmp_path / "a.wav", 3000))
    want = (softmax([1, 0, 0]) + softmax([2, 0, 0])) / 2
    np.testing.assert_allclose(found.probabilities, [want], atol=1e-6)


def test_ensembles_need_equal_labels():
    for other in (crossings.model(("a", "b", "c")), crossings.model(multi_label=True)):
        with pytest.raises(UserError, match="different labels"):
            inference.ensemble([crossings.model(), other], sine(200))


def test_sigmoid_probabilities_of_several_labels():
    found = crossings.model(multi_label=True).predict(sine(200))
    np.testing.assert_allclose(found.probabilities, [[0.5, 1 / (1 + np.exp(-1)), 0.5]])


def test_unreadable_sounds_are_bad_and_the_rest_is_labelled(tmp_path):
    good = tone(tmp_path / "good.wav", 3000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no sound")
    sf.write(tmp_path / "header.wav", np.zeros(0), RATE)
    sf.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    models = [crossings.model(), crossings.model(rate=44100)]
    for found in (models[0].predict(tmp_path), inference.ensemble(models, tmp_path)):
        broken = {
            str(tmp_path / name) for name in ("empty.wav", "text.wav", "header.wav", "nan.wav")
        }
        assert set(found.bad) == broken and all(found.bad.values())
        for name, row, top in zip(found.names, found.probabilities, found.top(2), strict=True):
            assert np.isnan(row).all() == (name != good) and len(top) == (2 if name == good else 0)


def test_load_gives_a_model_that_says_what_it_is(networks):
    model = sacjax.load(networks["small_cnn"])
    assert (model.sample_rate, model.multi_label, model.is_classifier) == (8000, False, True)
    assert len(model.labels) == 20 and model.stage == "supervised"
    pretrained = sacjax.load(str(networks["wav2vec2"]))
    assert not pretrained.is_classifier
    with pytest.raises(UserError, match="trained without labels and cannot give any: fine-tune"):
        pretrained.predict(sine(200))


def test_a_trained_run_labels_what_it_was_trained_on(trained):
    model = sacjax.load(trained.workdir)
    sounds = [trained.sounds / "high" / "high03.wav", trained.sounds / "low" / "low03.wav"]
    found = model.predict(sounds)
    assert [top[0][0] for top in found.top()] == ["high", "low"]
    arrays = model.predict([sf.read(path)[0] for path in sounds])
    np.testing.assert_allclose(arrays.probabilities, found.probabilities, atol=1e-5)


def test_embeddings_of_arrays_are_those_of_files(networks, tmp_path):
    """A vector a sound, and by frames; each is what the embedder gives."""
    model, rng = sacjax.load(networks["small_cnn"]), np.random.default_rng(0)
    sounds = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (3000, 4000)]
    for k, sound in enumerate(sounds):
        sf.write(tmp_path / f"{k}.wav", sound, RATE, subtype="FLOAT")
    vectors = model.embed(sounds)
    assert vectors.shape == (2, 8) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, model.embed(tmp_path))
    lengths = np.array([3000, 4000])
    pcm = np.stack([np.round(32767 * np.resize(sound, 4000)).astype(np.int16) for sound in sounds])
    np.testing.assert_allclose(vectors, model.embedder().clips(pcm, lengths), atol=1e-3)
    frames = model.embed_frames(sounds)
    np.testing.assert_allclose(vectors, [x.mean(0) for x, _ in frames], atol=1e-5)
    for (vectors_of, times), sound in zip(frames, sounds, strict=True):
        assert len(vectors_of) == len(times) == model.embedder().frame_count(len(sound))
        np.testing.assert_array_equal(times, model.embedder().frame_times(len(sound)))
    (tmp_path / "broken.wav").write_text("this is no sound")
    with pytest.warns(UserWarning, match="skipped .*broken.wav: ."):
        together = model.embed(tmp_path)
    np.testing.assert_array_equal(together[:2], vectors)
    assert np.isnan(together[2]).all()
    with pytest.warns(UserWarning, match="skipped .*broken.wav: ."):
        *good, (none, times) = model.embed_frames(tmp_path)
    assert [len(x) for x, _ in good] == [len(x) for x, _ in frames]
    assert none.shape == (0, 8) and times.shape == (0,)
    for seconds in (-1, float("inf"), float("nan")):
        with pytest.raises(UserError, match=f"--seconds is {seconds}: it must be more than 0"):
            model.embed(sounds, seconds=seconds)


@pytest.mark.parametrize("default", ["best", "last"])
def test_every_command_takes_the_checkpoint_that_its_config_says(tmp_path, capsys, default):
    """As the results were made from it; --which asks for the other one."""
    folder, sound = tmp_path / "run", tone(tmp_path / "a.wav", 440)
    write_best_and_last(folder, default)
    names = sacjax.load(folder).labels
    models = {which: sacjax.load(folder, which) for which in ("best", "last")}
    assert [model.step for model in models.values()] == [1, 2]
    assert sacjax.load(folder).step == models[default].step
    assert inference.load_classifier(folder).step == models[default].step
    vectors = {which: model.embed(sound)[0] for which, model in models.items()}
    assert np.abs(vectors["best"] - vectors["last"]).max() > 1e-3
    other = "last" if default == "best" else "best"
    for flags, want in (([], default), (["--which", other], other)):
        predict.main(["--checkpoint", str(folder), "--format", "json", *flags, sound])
        (row,) = json.loads(capsys.readouterr().out)
        assert row["labels"][0]["label"] == names[0 if want == "best" else 1]
        out = tmp_path / "v.npz"
        embed.main(["--checkpoint", str(folder), "--output", str(out), *flags, sound])
        with np.load(out) as file:
            np.testing.assert_array_equal(file["embeddings"][0], vectors[want])
        evaluated = ["--mode=eval", "--workdir", str(folder), "--output", str(tmp_path / "eval")]
        train.main([*evaluated, *flags])
        rows = list(csv.DictReader((tmp_path / "eval" / "predictions.csv").open()))
        assert {row["prediction"] for row in rows} == {names[0 if want == "best" else 1]}
        capsys.readouterr()


def test_a_folder_of_transformers_is_loaded_as_a_workdir_is(networks, tmp_path):
    model = sacjax.load(networks["wav2vec2"])
    save_huggingface(model.module, tmp_path / "hf", class_names=(), sample_rate=RATE)
    foreign = sacjax.load(f"hf:{tmp_path / 'hf'}")
    assert foreign.sample_rate == RATE and not foreign.is_classifier and foreign.labels == ()
    np.testing.assert_allclose(
        foreign.embed([sine(440)], seconds=0.5), model.embed([sine(440)]), atol=1e-5
    )
    sound = np.asarray(sine(440), np.float32)[None]
    vectors = foreign.embeddings(sound, np.array([sound.size], np.int32))  # as an export has them
    np.testing.assert_allclose(vectors, foreign.embed(sound, seconds=0.5), atol=1e-3)
    with pytest.raises(UserError, match="cannot give any"):
        foreign.predict([sine(440)])
    with pytest.raises(UserError, match="there is no config.json in it"):
        sacjax.load(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["nowhere", "", "file"])
def test_what_is_no_workdir(tmp_path, name):
    (tmp_path / "file").write_text("no workdir")
    with pytest.raises(UserError, match="not a workdir of sacjax .* hf:"):
        sacjax.load(tmp_path / name)


def test_the_last_stage_that_has_a_checkpoint_is_loaded_or_the_one_asked_for(networks, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(networks["small_cnn"], run)
    config = json.loads((run / "config.json").read_text())
    config["stages"], config["later"] = ["supervised", "later"], config["supervised"]
    (run / "config.json").write_text(json.dumps(config))
    assert sacjax.load(run).stage == "supervised"
    with pytest.raises(UserError, match="there is no checkpoint of stage later in it"):
        sacjax.load(run, stage="later")
    shutil.copytree(run / "checkpoints" / "supervised", run / "checkpoints" / "later")
    assert sacjax.load(run).stage == "later"
    assert sacjax.load(run, stage="supervised").stage == "supervised"


def test_a_workdir_without_a_checkpoint(networks, tmp_path):
    text = (networks["small_cnn"] / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="there is no checkpoint in it"):
        sacjax.load(tmp_path)
    assert json.loads(text)["stages"] == ["supervised"]
