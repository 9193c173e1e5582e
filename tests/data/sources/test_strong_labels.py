"""Events of long recordings as labelled windows, by worked values."""

import numpy as np
import pytest
from sounds import settings, tone, write

from sacjax import config as config_lib
from sacjax.data import sources, splits
from sacjax.data.sources.strong_labels import Span, inside, label_windows
from sacjax.errors import UserError
from sacjax.inference.listening import SlidingWindows


def load(tmp_path, rows, column="", **more):
    text = "\n".join([f"filename,start,end,label,split,{column}".rstrip(","), *rows])
    (tmp_path / "events.csv").write_text(text)
    options = dict(source="manifest", path=str(tmp_path / "events.csv"), seconds=2.0, windows=1.0)
    return sources.load(settings(**(options | more)))


def test_a_window_has_the_label_of_its_middle():
    events = [Span(3.6, 6, ("dog",)), Span(7.9, 8.2, ("cat",)), Span(8, 9, ("dog",))]
    found = label_windows(events, 10.0, 4.0, 1.0, "none")
    assert [(w.start, w.end) for w in found] == [(k, k + 4) for k in range(7)]
    # The middles end at 2.5, 3.5, 4.5, 5.5, 6.5, 7.5 and 10: the first and the last are longer.
    got = [w.labels[0] for w in found]
    assert got == ["none", "none", "dog", "dog", "dog", "none", "dog"]
    several = label_windows(events, 10.0, 4.0, 1.0, "")
    assert [w.labels for w in several][4:] == [("dog",), (), ("cat", "dog")]
    assert label_windows([], 0.5, 4.0, 1.0, "none") == [Span(0, 0.5, ("none",))]
    assert label_windows([], 4.25, 4.0, 1.0, "")[1:] == [Span(1, 4.25, ())]


@pytest.mark.parametrize("seed", range(5))
def test_each_event_is_in_a_window_and_windows_are_those_of_predict(seed):
    rng = np.random.default_rng(seed)
    seconds, duration = 100, int(rng.integers(50, 1000))  # in samples of 0.01 s
    hop = int(rng.integers(1, seconds + 1))
    events = []
    for k in range(20):
        start = rng.uniform(0, duration - 1) / 100
        events.append(Span(start, min(start + rng.exponential(0.5), duration / 100), (str(k),)))
    found = label_windows(events, duration / 100, seconds / 100, hop / 100, "")
    assert {label for w in found for label in w.labels} == {str(k) for k in range(20)}
    cut = SlidingWindows(seconds, hop)
    spans = [(x[0], x[-1] + 1) for x in cut.push(np.arange(duration)) + cut.finish()]
    np.testing.assert_allclose([w[:2] for w in found], np.array(spans) / 100, atol=1e-9)


class Counted(float):
    """A time that counts how often it is compared."""

    often = 0

    def __lt__(self, other):
        Counted.often += 1
        return float(self) < other

    def __gt__(self, other):
        Counted.often += 1
        return float(self) > other

    __hash__ = float.__hash__


def test_days_of_many_events_are_cut_by_what_is_near():
    """Work grows with the windows and the events, not with their product."""
    events = [Span(Counted(5 * k), Counted(5 * k + 1), ("a",)) for k in range(200)]
    found = label_windows(events, 1000.0, 1.0, 1.0, "none")
    assert [w.labels[0] for w in found] == ["a" if k % 5 == 0 else "none" for k in range(1000)]
    assert 0 < Counted.often < 200 * 50
    Counted.often = 0
    kept = inside(found, events)
    assert kept == found[::5] and Counted.often < 1000 * 50


def test_windows_inside_of_stretches():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 30, [2, 12]) / 2, rng.integers(1, 9, [2, 12]) / 2
        windows, heard = (
            [Span(*pair, ()) for pair in zip(a[k], a[k] + b[k], strict=True)] for k in (0, 1)
        )
        want = [w for w in windows if any(s.start <= w.start and w.end <= s.end for s in heard)]
        assert inside(windows, heard) == want


def test_rows_of_a_manifest_become_windows(tmp_path):
    for name, seconds in (("a.wav", 5.0), ("b.wav", 1.5), ("c.wav", 4.0)):
        write(tmp_path / name, tone(seconds))
    rows = ["a.wav,0.5,1.4,dog,train", "a.wav,0.5,1.6,cat,train", "a.wav,4,,dog,train"]
    rows += ["b.wav,,,,validation", "c.wav,1,2,cow,test"]
    found = load(tmp_path, rows, multi_label=True)
    a = [f"a.wav#{k}" for k in range(4)]
    assert found.names == [*a, "b.wav#0", "c.wav#0", "c.wav#1", "c.wav#2"]
    assert found.labels[:5] == [("cat", "dog"), (), (), ("dog",), ()]
    assert found.labels[5:] == [("cow",), ("cow",), ()]
    assert found.groups == ["a.wav"] * 4 + ["b.wav"] + ["c.wav"] * 3
    assert found.splits == ["train"] * 4 + ["validation"] + ["test"] * 3
    assert [found.open(k).num_samples for k in (0, 3, 4)] == [16000, 16000, 12000]
    np.testing.assert_allclose(found.open(3).read(0, 100), tone(5.0)[24000:24100], atol=1e-4)
    parts = splits.split(found, settings(source="manifest", multi_label=True))
    assert parts["train"].tolist() == [0, 1, 2, 3] and parts["test"].tolist() == [5, 6, 7]
    one = load(tmp_path, rows, background="nothing")
    assert one.labels[:5] == [("cat",), ("nothing",), ("nothing",), ("dog",), ("nothing",)]
    assert one.class_names == ("cat", "cow", "dog", "nothing")


def test_only_what_was_listened_to_is_used(tmp_path):
    write(tmp_path / "a.wav", tone(20.0))
    rows = ["a.wav,1,3,dog,", "a.wav,0,4,,", "a.wav,10,13,,"]
    found = load(tmp_path, rows)
    assert [name.partition("#")[2] for name in found.names] == ["0", "1", "2", "10", "11"]
    # The middles of the first three end at 1.5, 2.5 and 3.5 s.
    assert [own[0] for own in found.labels] == ["background", "dog", "dog"] + ["background"] * 2


def test_a_file_that_is_no_sound_stays_for_training_to_tell(tmp_path):
    write(tmp_path / "a.wav", tone(3.0))
    (tmp_path / "b.wav").write_text("no sound")
    found = load(tmp_path, ["a.wav,1,2,dog,", "b.wav,1,2,dog,"])
    assert found.names == ["a.wav#0", "a.wav#1", "b.wav#0"]
    with pytest.raises(Exception, match="b.wav"):
        found.open(2)


def test_mistakes(tmp_path):
    write(tmp_path / "a.wav", tone(3.0))
    with pytest.raises(UserError, match="'a.wav' is in several splits"):
        load(tmp_path, ["a.wav,0,1,dog,train", "a.wav,1,2,dog,test"])
    with pytest.raises(UserError, match="'a.wav' is in several groups"):  # B may be elsewhere, too
        load(tmp_path, ["a.wav,0,1,dog,,A", "a.wav,1,2,dog,,B"], "group")
    assert set(load(tmp_path, ["a.wav,0,1,dog,,A", "a.wav,0,3,,,"], "group").groups) == {"A"}
    for flags in (["windows=3.5", "source=manifest"], ["windows=0.5", "source=folder"]):
        with pytest.raises(UserError, match="data.windows is .*data.source=manifest, and at most"):
            config_lib.override(
                config_lib.default(),
                ["--config.supervised.data.seconds=3"]
                + [f"--config.supervised.data.{flag}" for flag in flags],
            )
