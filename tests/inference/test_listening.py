"""Sound in chunks of any size gives what the whole gives, cut into windows by NumPy."""

import crossings
import numpy as np
import pytest
from flax import nnx
from networks import quick
from workdirs import random_values

from sacjax import config as config_lib
from sacjax import inference, objectives
from sacjax.errors import UserError
from sacjax.frontend import make_frontend
from sacjax.inference.causal import why_not_carried
from sacjax.inference.listening import Listener, SlidingWindows

RATE, SECONDS = 8000, 0.5
NAMES = ("a", "b", "c")
CAUSAL = {
    "gru": dict(width=8, layers=2),
    "causal_transformer": dict(width=8, depth=2, heads=2, mlp_width=12, memory=512),
}
NOISE = np.random.default_rng(0).integers(-9000, 9000, 8_337).astype(np.int16)


def model_of(encoder="gru", encoder_options=None, model=None, **frontend):
    """Returns a classifier of random values that hears half a second at 8 kHz."""
    config = config_lib.default()
    s = config.supervised
    s.data.sample_rate, s.data.seconds = RATE, SECONDS
    s.frontend.update(dict(n_fft=256, hop_length=100, n_mels=8, normalize="global", top_db=None))
    s.frontend.update(dict(mean=-30.0, std=20.0) | frontend)
    s.model.name = encoder
    s.model.update(model or {})
    with s.model.unlocked():
        s.model.encoder = CAUSAL.get(encoder, {}) | (encoder_options or {})
    objective = objectives.build(s, NAMES, np.ones(len(NAMES)))
    module = random_values(lambda: objective.build(nnx.Rngs(0)))
    return inference.Model(config, "supervised", NAMES, objective, module)


def heard(listener, samples, sizes=()):
    """Returns all segments of samples that come in chunks of these sizes, then the rest."""
    segments = []
    for chunk in np.split(samples, np.cumsum(sizes)) if sizes else [samples]:
        segments += listener.push(chunk)
    return segments + listener.finish()


def check_same(segments, others):
    """Asserts that two lists of segments are the same to 1e-4."""
    assert len(segments) == len(others)
    for one, other in zip(segments, others, strict=True):
        np.testing.assert_allclose(one[:2], other[:2], atol=1e-9)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def check_tiles(segments, seconds):
    """Asserts that segments follow each other from 0 to the end."""
    starts, ends, _ = zip(*segments, strict=True)
    assert (
        starts[0] == 0
        and ends[-1] == pytest.approx(seconds)
        and list(ends[:-1]) == list(starts[1:])
    )
    assert all(start < end for start, end in zip(starts, ends, strict=True))


def test_windows_of_a_sequence():
    windows = SlidingWindows(4, 3)
    assert windows.push(np.arange(3)) == [] and windows.push(np.arange(0)) == []
    got = windows.push(np.arange(3, 9)) + windows.finish()
    assert [list(x) for x in got] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8]]
    whole = SlidingWindows(4, 3)
    assert len(whole.push(np.arange(7))) == 2 and whole.finish() == []  # all is heard
    short, none = SlidingWindows(4, 4), SlidingWindows(4, 2)
    assert short.push(np.arange(2)) == [] and [list(x) for x in short.finish()] == [[0, 1]]
    assert none.finish() == []


def test_windows_of_samples_are_those_that_predict_hears():
    """Each window's probabilities are what the model says of it as a sound of its own."""
    model = crossings.model(scale=3.0)
    tones = [crossings.sine(f, 1.0) for f in (200, 3000, 200)]
    sound = (32767 * np.concatenate([*tones, tones[1][:1234]])).astype(np.int16)
    size, hop = 4000, 1000
    starts = range(0, len(sound) - size + hop, hop)
    want = model.predict([sound[s : s + size] for s in starts], RATE).probabilities
    segments = heard(Listener(model, hop=hop / RATE), sound)
    check_tiles(segments, len(sound) / RATE)
    # The last window also stands for what follows its middle.
    got = [s.probabilities for s in segments]
    np.testing.assert_allclose(got, [*want, want[-1]], atol=1e-6)
    # A window stands for the hop in its middle: the tone changes where it does.
    label = [int(np.argmax(s.probabilities)) for s in segments]
    change = next(s.start for s, k in zip(segments, label, strict=True) if k == 0)
    assert change == pytest.approx(1.0, abs=hop / RATE / 2)
    (segment,) = heard(Listener(model), sound[:777])  # shorter than a window
    want = model.predict([sound[:777]], RATE).probabilities[0]
    assert segment[:2] == (0, 777 / RATE)
    np.testing.assert_allclose(segment.probabilities, want)


@pytest.mark.parametrize("pad", ["zero", "repeat", "reflect"])
def test_the_chunks_do_not_matter_to_windows(pad):
    model = crossings.model()
    model.stage_config.data.pad = pad
    listener = Listener(model, hop=0.1)
    want = heard(listener, NOISE)
    check_tiles(want, len(NOISE) / RATE)
    rng = np.random.default_rng(1)
    for most in (7, 1000, 9000):
        sizes = rng.integers(0, most, 5 + len(NOISE) // most)
        check_same(heard(listener, NOISE, tuple(sizes)), want)


def frames_of(model):
    """Returns samples → frames [N, D] of a whole sound, by the encoder's ordinary call."""
    stage = model.stage_config

    def frames(encoder, audio, length):
        return encoder(*make_frontend(stage.frontend, RATE)(audio, length))

    run = quick(model.module.encoder, frames)

    def whole(samples):
        x = np.zeros([1, len(NOISE)], np.float32)
        x[0, : len(samples)] = samples / 32768
        output = run(x, np.array([len(samples)]))
        return np.asarray(output.frames[0, : int(output.lengths[0])])

    return whole


def probabilities_of(model, frames):
    """Returns the softmax [C] of the head's logits of the mean of frames [n, D]."""
    head = model.module.head
    logits = frames.mean(0) @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize(
    ("encoder", "options", "frontend"),
    [
        ("gru", dict(), dict()),
        ("gru", dict(stack=3), dict(pad_mode="constant", hop_length=200)),
        ("gru", dict(stack=2), dict(center=False)),
        ("causal_transformer", dict(stack=2), dict()),
    ],
)
def test_a_causal_encoder_carries_its_state(encoder, options, frontend):
    model = model_of(encoder, options, **frontend)
    assert why_not_carried(model) is None
    whole = frames_of(model)
    frames = whole(NOISE)
    interval = model.stage_config.frontend.hop_length * options.get("stack", 1)
    listener = Listener(model, hop=0.1)
    assert listener.carries
    size, step = len(whole(NOISE[: round(SECONDS * RATE)])), round(0.1 * RATE / interval)
    starts = range(0, len(frames) - size + step, step)
    want = [probabilities_of(model, frames[start : start + size]) for start in starts]
    assert np.std(want, 0).max() > 1e-3  # it says something
    segments = heard(listener, NOISE)
    check_tiles(segments, len(NOISE) / RATE)
    got = [segment.probabilities for segment in segments]
    assert len(got) - len(want) in (0, 1)  # the last window may stand for the rest
    np.testing.assert_allclose(got, (want + want[-1:])[: len(got)], atol=1e-4)
    for sizes in ((1, 2, 126, 1, 300, 4000, 0, 2000), (99,) * 60):
        check_same(heard(listener, NOISE, sizes), segments)
    for count in (1, 129, 300):  # shorter than a frame, and than a window
        (segment,) = heard(listener, NOISE[:count])
        assert segment[:2] == (0, count / RATE)
        want = probabilities_of(model, whole(NOISE[:count]))
        np.testing.assert_allclose(segment.probabilities, want, atol=1e-4)


def test_what_cannot_be_carried_is_heard_in_windows():
    for model, reason in [
        (model_of(normalize="clip"), "frontend.normalize=clip hears a whole clip"),
        (model_of(top_db=80.0), "frontend.top_db=80.0 hears"),
        (model_of(ref="max"), "frontend.ref=max hears"),
        (model_of(preemphasis=0.9), "frontend.preemphasis=0.9 hears"),
        (model_of(model=dict(layers="weighted")), "model.layers=weighted"),
        (model_of("causal_transformer", dict(causal=False)), "model.encoder.causal=False hears"),
        (crossings.model(), "keeps no state"),
    ]:
        assert reason in why_not_carried(model)
        assert not Listener(model).carries
    model = model_of()
    windows = Listener(model, hop=0.25, windows=True)
    assert not windows.carries and windows.delay == pytest.approx(0.375)
    want = model.predict([NOISE[s : s + 4000] for s in (0, 2000, 4000)], RATE).probabilities
    got = [s.probabilities for s in windows.push(NOISE[:8000])]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_silence_of_no_length_and_bad_hops():
    for model in (crossings.model(), model_of()):
        listener = Listener(model)
        listener.warm_up()
        assert listener.push(NOISE[:0]) == [] and listener.finish() == []
        for hop in (-0.1, 0.6, float("nan")):
            with pytest.raises(UserError, match="--hop is .*the model hears 0.5 s"):
                Listener(model, hop=hop)
