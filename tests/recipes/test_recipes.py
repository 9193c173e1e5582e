"""The recipes, end to end on a few files of the layouts that they document."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf
from processes import ROOT
from quick_stages import share_trainers
from sklearn.metrics import roc_auc_score

from sacjax import config as config_lib
from sacjax import inference, stages
from sacjax.context import Context
from sacjax.data import hosts, sources, splits
from sacjax.errors import UserError
from sacjax.inference.embedder import file_batches
from sacjax.inference.tasks import TASKS
from sacjax.views import make_views

RATE = 4000


@pytest.fixture(autouse=True)
def quick_stages(monkeypatch):
    monkeypatch.chdir(ROOT)
    share_trainers(monkeypatch)
    hosts.tell.cache_clear()


def write(root, name, sound):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    sf.write(root / name, sound.astype(np.float32), RATE)


def tone(rng, hertz, seconds=0.4):
    time = np.arange(round(seconds * RATE)) / RATE
    sound = np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6))
    return 0.3 * sound + 0.01 * rng.standard_normal(len(time))


def small(spec, path, *changes, steps=4):
    """Returns a recipe's config as an experiment of seconds; all but sizes stay as they are."""
    stage = "detect" if "anomaly" in spec else "supervised"
    encoder = "model.encoder={}" if stage == "supervised" else ""
    sizes = [
        "data.sample_rate=4000",
        "data.seconds=0.4",
        "frontend.n_fft=128",
        "frontend.hop_length=64",
        "frontend.n_mels=16",
        "train.batch_size=8",
        f"train.steps={steps}",
        "train.epochs=0",
        "eval.batch_size=8",
        *changes,
    ]
    if path is not None:
        sizes.append(f"data.path={path}")
    if encoder:
        sizes = ["model.name=small_cnn", encoder, *sizes]
    overrides = [f"--config.{stage}.{change}" for change in sizes]
    config = config_lib.load(f"configs/recipes/{spec}", [*overrides, "--config.tensorboard=False"])
    return config


def parts_of(config, stage="supervised"):
    """Returns {part: names} of a config's clips."""
    data = config[stage].data
    recordings = sources.load(data)
    names = np.array(recordings.names)
    return {part: set(names[own]) for part, own in splits.split(recordings, data).items()}


def loss_of(model, recordings, k):
    """The loss of one clip of one window, in a batch of its own."""
    stage = model.stage_config
    (batch,) = file_batches(recordings, np.array([k]), stage)
    views = make_views(stage, 2)({key: jnp.asarray(batch[key]) for key in batch if key != "error"})
    loss = model.objective.loss(model.module, views, Context())
    return float(loss.total / loss.count)


def machines(rng, root, names):
    """Normal machines hum; the others hum and hiss."""
    for name in names:
        sound = tone(rng, 300 if "id_00" in name else 500)
        if "normal_" not in name and "/normal" not in name:
            sound += 0.2 * rng.standard_normal(len(sound))
        write(root, name, sound)


def dcase_names():
    train = [f"train/normal_id_{m:02d}_{k:08d}.wav" for m in (0, 2) for k in range(10)]
    test = [
        f"test/{what}_id_{m:02d}_{k:08d}.wav"
        for what in ("normal", "anomaly")
        for m in (0, 2)
        for k in range(4)
    ]
    return train, test


def test_machine_anomaly(tmp_path, capsys):
    """The areas are scikit-learn's of each clip's loss, of each machine, and their mean."""
    train, test = dcase_names()
    machines(np.random.default_rng(0), tmp_path / "fan", train + test)
    changes = ["model.encoder={'kind':'conv','channels':(8,),'bottleneck':4}", "data.cache=False"]
    config = small("machine_anomaly.py", tmp_path / "fan", *changes, steps=30)
    parts = parts_of(config, "detect")
    assert parts["test"] == set(test) and parts["train"] | parts["validation"] == set(train)
    assert len(parts["validation"]) == 2
    results = stages.run(config, tmp_path / "run")["detect"]
    model = inference.load(tmp_path / "run", "last")
    recordings = sources.load(config.detect.data)
    areas = []
    for machine in ("id_00", "id_02"):
        own = [k for k, name in enumerate(recordings.names) if name in test and machine in name]
        anomalous = ["anomaly" in recordings.names[k] for k in own]
        losses = [loss_of(model, recordings, k) for k in own]
        for name, share in (("anomaly_auc", None), ("anomaly_partial_auc", 0.1)):
            wanted = roc_auc_score(anomalous, losses, max_fpr=share)
            assert results[f"test/{name}/{machine}"] == pytest.approx(wanted)
        areas.append(roc_auc_score(anomalous, losses))
    assert results["test/anomaly_auc"] == pytest.approx(np.mean(areas)) and min(areas) > 0.9
    assert f"of anomalies {100 * np.mean(areas):.1f} %" in capsys.readouterr().out


def test_machine_anomaly_in_mimiis_folders(tmp_path):
    names = [f"id_00/normal/{k:08d}.wav" for k in range(20)]
    names += [f"id_00/abnormal/{k:08d}.wav" for k in range(6)]
    for name in names:
        write(tmp_path, name, np.zeros(1600))
    config = small("machine_anomaly.py:layout=mimii", tmp_path)
    parts = parts_of(config, "detect")
    held = {f"id_00/normal/{k:08d}.wav" for k in range(20) if k % 10 < 4}
    assert parts["test"] == held | set(names[20:])
    assert parts["train"] | parts["validation"] == set(names[:20]) - held


def patients(rng, root):
    """CirCor's layout: 20 patients of two or three places; half of them have a murmur."""
    rows = [("Patient ID", "Recording locations:", "Murmur", "Outcome")]
    for k in range(20):
        number, ill = 2500 + 7 * k, k % 2
        places = ("AV", "MV", "TV")[: 2 + k % 2 * (k % 3 > 0)]
        rows.append((number, "+".join(places), "Unknown", ("Normal", "Abnormal")[ill]))
        for place in places:
            write(root, f"training_data/{number}_{place}.wav", tone(rng, (100, 400)[ill]))
    with open(root / "training_data.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_heart_sounds_by_patient(tmp_path, capsys):
    """Sensitivity and specificity are those of patients, from the table of predictions."""
    patients(np.random.default_rng(0), tmp_path)
    config = small("heart.py", tmp_path, steps=12)
    parts = parts_of(config)
    numbers = {part: {name.split("_")[1][5:] for name in own} for part, own in parts.items()}
    assert not numbers["train"] & numbers["test"] and not numbers["validation"] & numbers["test"]
    assert sum(map(len, parts.values())) == len(list(tmp_path.rglob("*.wav")))
    results = stages.run(config, tmp_path / "run")["supervised"]
    out, err = capsys.readouterr()
    assert "this is no medical device" in err
    people = {}
    for row in csv.DictReader(open(tmp_path / "run" / "predictions.csv")):
        if row["split"] == "test":
            number = row["file"].split("/")[1].split("_")[0]
            people.setdefault((number, row["label"]), []).append(float(row["Abnormal"]))
    for name, label in (("sensitivity", "Abnormal"), ("specificity", "Normal")):
        found = [np.mean(own) >= 0.5 for (_, truth), own in people.items() if truth == label]
        right = np.mean(found) if label == "Abnormal" else 1 - np.mean(found)
        assert results[f"test/{name}"] == pytest.approx(right)
        assert results[f"test/{name}_low"] < right < results[f"test/{name}_high"] or right in (0, 1)
        low, high = (100 * results[f"test/{name}_{end}"] for end in ("low", "high"))
        assert f"{name} {100 * right:.1f} % (95 % interval {low:.1f} to {high:.1f})" in out


@pytest.mark.parametrize(
    ("recipe", "entry", "message"),
    [
        ("heart.py", dict(name="screening", positive="ill"), "positive is 'ill'"),
        ("machine_anomaly.py", dict(name="anomaly", normal="ok"), "normal is 'ok'"),
        ("machine_anomaly.py", dict(name="anomaly", by="machine"), "by 'machine' is not in"),
    ],
)
def test_what_cannot_be_judged_is_told_before_training(
    tmp_path, monkeypatch, recipe, entry, message
):
    if recipe == "heart.py":
        patients(np.random.default_rng(0), tmp_path)
    else:
        machines(np.random.default_rng(0), tmp_path, sum(dcase_names(), []))
    config = small(recipe, tmp_path)
    config[config.stages[0]].eval.evaluators = (entry,)
    monkeypatch.setattr(stages, "fit", lambda *args: pytest.fail("it trained"))
    with pytest.raises(UserError, match=message):
        stages.run(config, tmp_path / "run")


def test_heart_sounds_by_database(tmp_path):
    for letter in "abc":
        (tmp_path / f"training-{letter}").mkdir()
        names = [f"{letter}{k:04d}" for k in range(1, 9)]
        for name in names:
            write(tmp_path, f"training-{letter}/{name}.wav", np.zeros(1600))
        rows = [f"{name},{(-1, 1)[k % 2]}\n" for k, name in enumerate(names)]
        (tmp_path / f"training-{letter}" / "REFERENCE.csv").write_text("".join(rows))
    config = small("heart.py:data=physionet2016,fold=2", tmp_path)
    assert sources.load(config.supervised.data).class_names == ("-1", "1")
    parts = parts_of(config)
    assert parts["test"] == {f"training-b/b{k:04d}.wav" for k in range(1, 9)}
    assert len(parts["validation"]) == 3


def test_coughs_by_person(tmp_path, capsys):
    """Coswara's layout: breaths have no label; one person is neither healthy nor positive."""
    rng = np.random.default_rng(0)
    rows = [("id", "a", "covid_status"), ("p99", 30, "no_resp_illness_exposed")]
    for k in range(20):
        status = ("healthy", "positive_mild", "healthy", "positive_moderate")[k % 4]
        rows.append((f"p{k:02d}", 30, status))
        for kind in ("cough-heavy", "cough-shallow", "breathing-deep"):
            sound = tone(rng, (200, 900)[k % 2])
            write(tmp_path, f"Extracted_data/20200413/p{k:02d}/{kind}.wav", sound)
    write(tmp_path, "Extracted_data/20200413/p99/cough-heavy.wav", tone(rng, 500))
    with open(tmp_path / "combined_data.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    config = small("cough.py", tmp_path, "frontend.trim_db=0.0")
    recordings = sources.load(config.supervised.data)
    assert recordings.class_names == ("healthy", "positive")
    assert sum(label is not None for label in recordings.labels) == 40
    results = stages.run(config, tmp_path / "run")["supervised"]
    people = results["test/screened_positive"] + results["test/screened_negative"]
    tested = {name.split("/")[2] for name in parts_of(config)["test"]} - {"p99"}
    assert people == len(tested) and 3 <= people <= 5
    assert {"test/sensitivity_low", "test/specificity_high"} <= set(results)
    assert "this is no medical device" in capsys.readouterr().err


def test_coughs_of_coughvid(tmp_path):
    statuses = {"0a1b-22": "healthy", "0a1b-23": "COVID-19", "0a1b-24": "symptomatic"}
    text = "uuid,cough_detected,status\n"
    for uuid, status in (statuses | {"0a1b-25": ""}).items():
        write(tmp_path, f"{uuid}.wav", np.zeros(1600))
        text += f"{uuid},0.9,{status}\n"
    (tmp_path / "metadata_compiled.csv").write_text(text)
    found = sources.load(small("cough.py:data=coughvid", tmp_path).supervised.data)
    assert dict(zip(found.names, found.labels, strict=True)) == {
        "0a1b-22.wav": ("healthy",),
        "0a1b-23.wav": ("COVID-19",),
        "0a1b-24.wav": None,
        "0a1b-25.wav": None,
    }


def test_music_in_gtzans_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("SACJAX_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    root = tmp_path / "gtzan" / "genres_original"
    for g, genre in enumerate(("blues", "jazz", "pop")):
        for k in range(0, 30, 5):
            write(root, f"{genre}/{genre}.{k:05d}.wav", tone(rng, 200 * (g + 1)))
    config = small("music.py:fold=2", None)
    parts = parts_of(config)
    tested = {f"{g}/{g}.{k:05d}.wav" for g in ("blues", "jazz", "pop") for k in (10, 15)}
    assert parts["test"] == tested
    results = stages.run(config, tmp_path / "run")["supervised"]
    assert 0 <= results["test/accuracy"] <= 1 and "test/f1/jazz" in results


def test_music_without_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SACJAX_DATA", str(tmp_path))
    config = small("music.py", None, "data.examples=30", "data.seconds=1.0", steps=2)
    results = stages.run(config, tmp_path / "run")["supervised"]
    assert {f"test/f1/{genre}" for genre in ("classical", "disco", "jazz")} <= set(results)


def test_spoken_language(tmp_path):
    rng = np.random.default_rng(0)
    for language, hertz in (("eo", 300), ("fi", 700)):
        for video in range(10):
            for k in range(2):
                name = f"{language}/v-{language}{video}__U__S{k}---0{k}10.100-0{k}15.900.wav"
                write(tmp_path, name, tone(rng, hertz))
    config = small("language.py", tmp_path, "augment.waveform=()")
    results = stages.run(config, tmp_path / "run")["supervised"]
    videos = {p: {n.split("__")[0] for n in own} for p, own in parts_of(config).items()}
    assert len(videos["test"]) == 2 and not videos["test"] & videos["train"]
    assert "test/accuracy" in results


@pytest.mark.parametrize(
    ("recipe", "task", "keys"),
    [
        ("heart.py", "circor", ("label_pattern", "group_pattern", "label_table", "label_columns")),
        ("language.py", "voxlingua107", ("group_pattern",)),
    ],
)
def test_recipe_and_benchmark_read_a_set_alike(recipe, task, keys):
    data = config_lib.load(f"configs/recipes/{recipe}").supervised.data
    for one in TASKS[task].configs():
        assert {key: one[key] for key in ("source", *keys)} == {
            key: data[key] for key in ("source", *keys)
        }
