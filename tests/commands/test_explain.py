"""`sacjax explain`: what is written and printed, and how it answers mistakes."""

import csv
import json
import os

import numpy as np
import pytest
import soundfile as sf
from crossings import tone
from PIL import Image

from sacjax import inference
from sacjax.commands import explain
from sacjax.errors import UserError

RATE = 8000


def test_a_folder_is_explained_and_what_cannot_be_read_is_skipped(networks, tmp_path, capsys):
    """A clip of three of the model's windows, one of a name that another has, and no sound."""
    long, twin = tone(tmp_path / "in" / "a.wav", 700, seconds=1.0), tmp_path / "in" / "b" / "a.wav"
    tone(twin, 2000, seconds=0.3, rate=16000)
    (tmp_path / "in" / "text.wav").write_text("this is no sound")
    out = tmp_path / "out"
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(out)]
    methods = ["integrated_gradients", "grad_cam"]
    assert explain.main([*flags, str(tmp_path / "in"), "--method", *methods]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"skipped {tmp_path / 'in' / 'text.wav'}: ")
    entries = json.loads((out / "explanations.json").read_text())
    assert [entry["file"] for entry in entries] == [long, str(twin)]
    predicted = inference.load(networks["small_cnn"]).predict(str(twin)).top(1)[0][0]
    assert entries[1]["label"] == predicted[0]
    assert entries[1]["probability"] == pytest.approx(predicted[1], abs=1e-4)
    for name, entry, seconds in (("a_1", entries[0], 0.5), ("a_2", entries[1], 0.3)):
        assert f"{entry['file']}  {entry['label']} " in printed.out
        assert Image.open(out / f"{name}.png").size[0] > 600
        integral = entry["methods"]["integrated_gradients"]
        assert abs(integral["missing"]) <= 1.1e-3 * max(abs(integral["difference"]), 1e-2)
        for method in methods:
            assert 0 <= entry["methods"][method]["important"] <= 1
            sound, rate = sf.read(out / f"{name}.{method}.wav")
            assert rate == RATE and len(sound) == round(seconds * RATE)
            head, *rows = csv.reader(open(out / f"{name}.{method}.csv"))
            assert head[0] == "seconds" and all(len(row) == len(head) for row in rows)
        table = np.loadtxt(out / f"{name}.integrated_gradients.csv", delimiter=",", skiprows=1)
        assert table[0, 0] == pytest.approx(entry["start"], abs=1e-4)
        assert table[:, 1:].sum() == pytest.approx(
            integral["difference"] - integral["missing"], rel=1e-3
        )
    assert len(list(out.iterdir())) == 2 * (1 + 2 * len(methods)) + 1


def test_a_label_and_a_window_of_choice(networks, tmp_path):
    path = tone(tmp_path / "a.wav", 700, seconds=1.0)
    model = inference.load(networks["small_cnn"])
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(tmp_path), path]
    label = model.labels[3]
    chosen = ["--label", label, "--start", "0.2", "--method", "occlusion"]
    assert explain.main([*flags, *chosen]) == 0
    (entry,) = json.loads((tmp_path / "explanations.json").read_text())
    samples = sf.read(path)[0][round(0.2 * RATE) :][: RATE // 2]
    want = model.predict(samples).probabilities[0, 3]
    assert (entry["label"], entry["start"]) == (label, 0.2)
    assert entry["probability"] == pytest.approx(want, abs=1e-4)


def test_a_folder_of_an_earlier_version_is_kept_too(tmp_path):
    files = ["one/a.wav", "b.wav", "two/a.wav"]  # their pictures are a_1, b and a_2
    (tmp_path / "x.json").write_text(json.dumps([dict(file=file) for file in files]))
    found = explain.read_entries(tmp_path / "x.json")
    assert {file: entry["name"] for file, entry in found.items()} == dict(
        zip(files, ["a_1", "b", "a_2"], strict=True)
    )


def test_a_second_run_into_a_folder_keeps_what_other_files_have(networks, tmp_path):
    first, second = (tone(tmp_path / n / "a.wav", 700, seconds=0.5) for n in ("one", "two"))
    out = tmp_path / "out"
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(out)]
    method = ["--method", "grad_cam"]
    entries = lambda: json.loads((out / "explanations.json").read_text())
    assert explain.main([*flags, first, *method]) == 0
    (kept,), picture = entries(), (out / "a.png").read_bytes()
    assert kept["checkpoint"] == str(networks["small_cnn"])
    labels = inference.load(networks["small_cnn"]).labels
    for label in labels[:2]:  # the second time its entry is replaced
        assert explain.main([*flags, second, "--label", label, *method]) == 0
        found, new = entries()
        assert found == kept and (out / "a.png").read_bytes() == picture
        assert (new["file"], new["name"], new["label"]) == (second, "a_1", label)
    (out / "explanations.json").write_text('{"of": "another program"}')
    with pytest.raises(UserError, match="is not one that sacjax explain wrote; choose another"):
        explain.main([*flags, first, *method])
    assert (out / "explanations.json").read_text() == '{"of": "another program"}'


def test_a_name_that_is_not_utf8(networks, tmp_path, capsys):
    odd = os.fsdecode(b"t\xf6ne.wav")  # of an archive in Latin-1
    os.replace(tone(tmp_path / "a.wav", 700, seconds=0.5), tmp_path / odd)
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(tmp_path / "out")]
    assert explain.main([*flags, str(tmp_path / odd), "--method", "grad_cam"]) == 0
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert entry["file"] == str(tmp_path / odd)
    assert (tmp_path / "out" / os.fsdecode(b"t\xf6ne.png")).stat().st_size > 5000


def test_it_hears_the_channel_of_the_training(networks, tmp_path, monkeypatch):
    model = inference.load(networks["small_cnn"])
    model.config.supervised.data.channel = 1
    monkeypatch.setattr(inference, "load_classifier", lambda *_: model)
    time = np.arange(RATE // 2) / RATE
    both = np.stack([0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 2500)], 1)
    path = str(tmp_path / "stereo.wav")
    sf.write(path, both, RATE, subtype="FLOAT")
    flags = ["--checkpoint", "it", "--output", str(tmp_path), path, "--method", "grad_cam"]
    assert explain.main(flags) == 0
    (entry,) = json.loads((tmp_path / "explanations.json").read_text())
    ((label, probability),) = inference.load(networks["small_cnn"]).predict(both[:, 1]).top(1)[0]
    assert entry["label"] == label
    assert entry["probability"] == pytest.approx(probability, abs=1e-3)


@pytest.mark.parametrize(
    ("network", "flags", "message"),
    [
        ("small_cnn", ["--method", "gradcam"], "--method is 'gradcam'; did you mean 'grad_cam'"),
        (
            "small_cnn",
            ["--method", "attention_rollout"],
            "attention_rollout, which is not defined for model.name=small_cnn; those that are: "
            "integrated_gradients, grad_cam, occlusion",
        ),
        ("small_cnn", ["--label", "nothing", "--method", "grad_cam"], "--label is 'nothing'"),
        ("small_cnn", ["--start", "-1"], "--start is -1"),
        ("small_cnn", ["--share", "1"], "--share is 1"),
        ("small_cnn", ["--attenuation", "0"], "--attenuation is 0"),
        ("wav2vec2", [], "trained without labels"),
    ],
)
def test_mistakes_of_the_user(networks, tmp_path, network, flags, message):
    path = tone(tmp_path / "a.wav", 700)
    where = ["--checkpoint", str(networks[network]), "--output", str(tmp_path / "out"), path]
    with pytest.raises(UserError, match=message):
        explain.main([*where, *flags])


def test_a_file_that_ends_before_the_start_is_skipped(networks, tmp_path, capsys):
    tone(tmp_path / "short.wav", 700, seconds=0.2)
    tone(tmp_path / "whole.wav", 700, seconds=0.5)
    sounds = [str(tmp_path / f"{name}.wav") for name in ("short", "whole")]
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(tmp_path / "out")]
    flags += [*sounds, "--method", "grad_cam", "--start"]
    assert explain.main([*flags, "0.3"]) == 0
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert entry["file"].endswith("whole.wav") and entry["start"] == 0.3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"skipped {tmp_path / 'short.wav'}: --start is 0.3, and it ends at 0.200 s"
    assert explain.main([*flags, "9"]) == 1


def test_nothing_readable_is_exit_code_1(networks, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("this is no sound")
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(tmp_path / "out")]
    assert explain.main([*flags, str(tmp_path)]) == 1
    assert "text.wav" in capsys.readouterr().err


def test_silence_and_a_single_sample(networks, tmp_path):
    """There is nothing to point to, and nothing breaks."""
    sf.write(tmp_path / "one.wav", np.array([0.5]), RATE)
    sf.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(tmp_path / "out")]
    assert explain.main([*flags, str(tmp_path)]) == 0
    _, silent = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert silent["methods"]["integrated_gradients"]["difference"] == pytest.approx(0, abs=1e-5)
    for name in silent["methods"]:
        sound, _ = sf.read(tmp_path / "out" / f"silent.{name}.wav")
        assert not sound.any()


def test_no_two_files_have_one_name():
    assert explain.names_of(["x/a.wav", "y/b.wav"]) == ["a", "b"]
    assert explain.names_of(["x/a.wav", "y/a.flac"]) == ["a_1", "a_2"]
    assert explain.names_of(["x/a.wav", "y/a.wav", "a_1.wav"]) == ["a_2", "a_3", "a_1"]
    earlier = {"x/a.wav": "a", "y/b.wav": "b_2"}
    files = ["y/a.wav", "x/a.wav", "y/b.wav", "z/b.wav", "b_2.wav"]
    assert explain.names_of(files, earlier) == ["a_1", "a", "b_2", "b", "b_2_1"]


def test_what_was_explained_before_ctrl_c_is_told(networks, tmp_path, monkeypatch):
    paths = [str(tone(tmp_path / f"{name}.wav", 700)) for name in "ab"]
    write = explain.write

    def interrupted(folder, name, *rest):
        if name == "b":
            raise KeyboardInterrupt
        return write(folder, name, *rest)

    monkeypatch.setattr(explain, "write", interrupted)
    flags = ["--checkpoint", str(networks["small_cnn"]), "--output", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt):
        explain.main([*flags, *paths, "--method", "grad_cam"])
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert entry["file"] == paths[0]
