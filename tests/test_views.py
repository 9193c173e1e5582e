"""From a batch to views: labels, mixing, crops, and what each view has of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax import config as config_lib
from sacjax.augment.draws import example_keys
from sacjax.frontend import make_frontend
from sacjax.views import make_views, random_crop, read_labels

RATE = 64
KEY = jax.random.key(0)


def stage_of(kind="audionet", **augment):
    stage = config_lib.stage()
    stage.data.update(sample_rate=RATE, seconds=1.0)
    stage.model.name = kind
    stage.frontend.update(n_fft=16, hop_length=8, n_mels=4)
    stage.augment.update(augment)
    return stage


def batch_of(rows=6, label=None, mask=None):
    """Returns a batch of noise; row i holds something at sample i that no other row has there."""
    rng = np.random.default_rng(0)
    audio = rng.uniform(0.1, 0.5, [rows, RATE]).astype(np.float32)
    audio[:, :rows] *= np.eye(rows, dtype=np.float32)
    return dict(
        audio=audio,
        length=np.full(rows, RATE, np.int32),
        label=np.arange(rows, dtype=np.int32) % 3 if label is None else label,
        mask=np.ones(rows, np.float32) if mask is None else mask,
        index=np.arange(rows, dtype=np.int32) + 10,
    )


def views_of(stage, batch, key=KEY, **options):
    """Returns what the views of a batch are, on the host."""
    views = jax.jit(make_views(stage, 3, **options))
    return jax.device_get(views(batch, key))


def test_one_label_a_clip_as_one_hot_and_zeros_where_unknown():
    label, labelled = read_labels(jnp.asarray([2, -1, 0]), 3)
    np.testing.assert_array_equal(label, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(labelled, [1, 0, 1])
    assert label.dtype == labelled.dtype == jnp.float32


def test_of_several_labels_a_row_of_minus_one_is_unknown_and_one_of_zeros_is_known_to_have_none():
    given = jnp.asarray([[1.0, 0, 1], [-1, -1, -1], [0, 0, 0]])
    label, labelled = read_labels(given, 3)
    np.testing.assert_array_equal(label, [[1, 0, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(labelled, [1, 0, 1])


MIXUP = (dict(name="mixup", alpha=1.0),)


def partners(made):
    """Returns bool [B, B]: whose sound is in the first view of each row."""
    heard = made["views"][0].inputs
    return heard[:, : len(heard)] > 0


@pytest.mark.parametrize("several", [False, True])
def test_clips_without_a_label_are_no_partners_where_labels_are_learned(several):
    label = np.array([0, -1, 2, 1, -1, 0], np.int32)
    if several:  # row 5 is known to have none
        eye, unknown, none = np.eye(3, dtype=np.float32), np.full(3, -1.0), np.zeros(3)
        label = np.float32([eye[0], unknown, eye[2], eye[1], unknown, none])
    batch = batch_of(label=label, mask=np.float32([1, 1, 1, 0, 1, 1]))
    known, out = [0, 2, 5], [1, 3, 4]  # row 3 is padding
    made = views_of(stage_of(waveform=MIXUP), batch, needs_labels=True)
    mixed = partners(made)
    np.testing.assert_array_equal(mixed[out], np.eye(6, dtype=bool)[out])
    assert not mixed[np.ix_(known, out)].any()
    assert (mixed[known].sum(1) == 2).all()
    np.testing.assert_array_equal(made["views"][0].inputs[out], batch["audio"][out])
    np.testing.assert_array_equal(made["labelled"], [1, 0, 1, 1, 0, 1])
    assert not made["label"][[1, 4]].any()
    want = np.float32([[1, 0, 0], [0, 0, 1], [0, 0, 0] if several else [1, 0, 0]])
    own = np.diagonal(made["views"][0].inputs)[known] / np.diagonal(batch["audio"])[known]
    for row, share in zip(known, own, strict=True):
        (other,) = set(np.flatnonzero(mixed[row])) - {row}
        worked = share * want[known.index(row)] + (1 - share) * want[known.index(other)]
        np.testing.assert_allclose(made["label"][row], worked, atol=1e-5)


def test_where_no_label_is_learned_every_clip_but_padding_is_mixed():
    batch = batch_of(label=np.full(6, -1, np.int32), mask=np.float32([1, 1, 1, 0, 1, 1]))
    made = views_of(stage_of(waveform=MIXUP), batch, needs_labels=False)
    assert partners(made).sum(1).tolist() == [2, 2, 2, 1, 2, 2]


GAIN = (dict(name="gain", low_db=-20.0, high_db=0.0), *MIXUP)


def test_views_differ_and_the_first_is_that_of_an_objective_of_one_to_the_bit():
    batch = batch_of()
    stage = stage_of(waveform=GAIN, crop_seconds=0.5)
    one, three = (views_of(stage, batch, number=number) for number in (1, 3))
    assert len(one["views"]) == 1 and len(three["views"]) == 3
    jax.tree.map(np.testing.assert_array_equal, three["views"][0], one["views"][0])
    for name in ("label", "labelled", "mask", "index", "clean"):
        jax.tree.map(np.testing.assert_array_equal, three[name], one[name])
    a, b, c = (view.inputs for view in three["views"])
    for x, y in ((a, b), (a, c), (b, c)):
        assert (np.abs(x - y).max(1) > 0.01).all()
    np.testing.assert_array_equal(one["index"], batch["index"])


def test_the_clean_view_is_the_clip_as_it_is_and_so_is_every_view_outside_training():
    batch = batch_of()
    stage = stage_of(waveform=GAIN, crop_seconds=0.5)
    trained, judged = (views_of(stage, batch, key, number=2) for key in (KEY, None))
    assert trained["views"][0].inputs.shape == (6, RATE // 2)
    for view in (trained["clean"], judged["clean"], *judged["views"]):
        np.testing.assert_array_equal(view.inputs, batch["audio"])
        np.testing.assert_array_equal(view.lengths, batch["length"])
    np.testing.assert_array_equal(judged["label"], np.eye(3)[batch["label"]])


def test_the_waveform_stays_beside_a_spectrogram():
    batch = batch_of()
    made = views_of(stage_of("small_cnn", waveform=GAIN), batch)["waveform"]
    np.testing.assert_array_equal(made.inputs, batch["audio"])
    np.testing.assert_array_equal(made.lengths, batch["length"])


def test_pcm_is_sound_from_minus_one_to_one():
    batch = batch_of()
    pcm = np.round(batch["audio"] * 32768).astype(np.int16)
    made = views_of(stage_of(), batch | {"audio": pcm}, None)
    np.testing.assert_array_equal(made["clean"].inputs, pcm / np.float32(32768))


def test_spectrograms_are_augmented_by_draws_of_their_own():
    mask = (dict(name="time_mask", count=1, width=4),)
    batch = batch_of()
    plain = views_of(stage_of("small_cnn"), batch)
    made = views_of(stage_of("small_cnn", spectrogram=mask), batch, number=2)
    frontend = jax.jit(make_frontend(stage_of("small_cnn").frontend, RATE))
    frames, lengths = frontend(batch["audio"], batch["length"])
    for view in (plain["clean"], plain["views"][0], made["clean"]):
        np.testing.assert_allclose(view.inputs, frames, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(view.lengths, lengths)
    one, other = (view.inputs != made["clean"].inputs for view in made["views"])
    assert one.any() and other.any() and (one != other).any()


def test_a_crop_is_a_stretch_of_the_valid_part_anywhere_in_it():
    lengths = jnp.asarray([40] * 400 + [20, 12, 0])
    x = jnp.broadcast_to(jnp.arange(RATE, dtype=jnp.float32), [403, RATE])
    keys = example_keys(KEY, jnp.arange(403))
    cropped, kept = jax.device_get(jax.jit(random_crop, static_argnums=3)(keys, x, lengths, 20))
    starts = cropped[:, 0].astype(int)
    np.testing.assert_array_equal(cropped, starts[:, None] + np.arange(20))
    often = np.bincount(starts[:400], minlength=21)
    assert len(often) == 21 and often.min() > 0 and often.max() < 60  # of 19 expected
    assert starts[400:].tolist() == [0, 0, 0] and kept[:400].tolist() == [20] * 400
    assert kept[400:].tolist() == [20, 12, 0]


def test_a_crop_that_is_no_shorter_than_the_clip_is_none():
    made = views_of(stage_of(crop_seconds=1.0), batch_of())
    np.testing.assert_array_equal(made["views"][0].inputs, batch_of()["audio"])


@pytest.mark.parametrize("kind", ["audionet", "small_cnn"])
def test_padding_examples_have_nothing_valid(kind):
    mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
    made = views_of(stage_of(kind), batch_of(mask=mask), number=2)
    for view in (*made["views"], made["clean"], made["waveform"], made["source"]):
        np.testing.assert_array_equal(view.lengths > 0, mask > 0)
