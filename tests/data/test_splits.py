import itertools
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from sacjax import config as config_lib
from sacjax.data import splits
from sacjax.data.labels import strata
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError


def make(labels, **columns):
    labels = [label if isinstance(label, tuple | None) else (label,) for label in labels]
    classes = tuple(sorted({name for label in labels for name in label or ()}))
    return Recordings(
        [f"{k}.wav" for k in range(len(labels))], labels, classes, lambda i: None, **columns
    )


def settings(**values):
    data = config_lib.stage().data
    data.update(values)
    return data


def check(recordings, parts):
    everything = np.concatenate(list(parts.values()))
    assert sorted(everything.tolist()) == list(range(len(recordings)))
    assert all((np.diff(part) > 0).all() for part in parts.values())
    assert splits.leak(recordings, parts) == []


def grouped(rng, classes=10, groups=60, clips=1500, mixed=False):
    group = rng.zipf(1.4, clips) % groups
    label = rng.integers(classes, size=clips) if mixed else group % classes
    return make([f"c{k}" for k in label], groups=[f"g{k}" for k in group])


def test_the_default_is_60_20_20_of_every_class():
    recordings = make([f"c{k % 8}" for k in range(400)])
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    for part, count in (("train", 30), ("validation", 10), ("test", 10)):
        assert splits.class_counts(recordings, parts[part]).tolist() == [count] * 8


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2, 1 / 3, 0.5, 0.77])
@pytest.mark.parametrize("size", [2, 7, 23, 100])
def test_shares_without_groups_are_exact_to_a_clip(fraction, size):
    recordings = make([f"c{k % 3}" for k in range(3 * size)])
    rest, held = splits.hold_out(recordings, np.arange(3 * size), fraction, 0)
    assert len(held) == pytest.approx(3 * size * fraction, abs=1.01 if size > 2 else 3)
    counts = splits.class_counts(recordings, held)
    assert np.abs(counts - size * fraction).max() < 1.01 and (counts < size).all()
    assert sorted([*rest, *held]) == list(range(3 * size))


@pytest.mark.parametrize("seed", range(3))
def test_the_split_depends_on_its_seed_alone(seed):
    recordings = make([f"c{k % 8}" for k in range(400)])
    one, again = (splits.split(recordings, settings(split_seed=seed)) for _ in range(2))
    assert all(np.array_equal(one[part], again[part]) for part in one)
    other = splits.split(recordings, settings(split_seed=seed + 1))
    assert not np.array_equal(one["test"], other["test"])


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_classes_balanced(mixed, seed):
    recordings = grouped(np.random.default_rng(seed), mixed=mixed)
    parts = splits.split(recordings, settings(split_seed=seed))
    check(recordings, parts)
    # The classes' shares are as near to a fifth as scikit-learn's five stratified folds come.
    total = splits.class_counts(recordings, np.arange(len(recordings)))
    labels, groups = splits.first_labels(recordings), np.asarray(recordings.groups)

    def off(indices):
        return np.abs(splits.class_counts(recordings, indices) / total - 0.2).mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(
            labels, labels, groups
        )
        theirs = np.mean([off(held) for _, held in folds])
    assert off(parts["test"]) <= theirs + 0.03
    assert len(parts["test"]) / len(recordings) == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize(
    "speakers, expected", [(2, (1, 0, 1)), (3, (1, 1, 1)), (6, (4, 1, 1)), (10, (6, 2, 2))]
)
def test_few_speakers(speakers, expected):
    recordings = make(
        [f"c{k // speakers % 5}" for k in range(speakers * 50)],
        groups=[f"s{k % speakers}" for k in range(speakers * 50)],
    )
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    assert (
        tuple(len(set(np.asarray(recordings.groups)[parts[part]])) for part in splits.PARTS)
        == expected
    )


def test_classes_of_few_clips_or_groups_do_not_stop_it():
    recordings = make(list("aaaabbbccd"))
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    assert (splits.class_counts(recordings, parts["train"]) > 0).all()
    # Every class comes from one group alone: none of them can be held out.
    recordings = make(list("aabbccdd"), groups=list("aabbccdd"))
    assert len(splits.split(recordings, settings())["train"]) == 8
    recordings = make(["a"] * 3 + ["b"] * 30, groups=["g"] * 3 + [f"h{k}" for k in range(30)])
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    assert 0 in parts["train"] and len(parts["test"]) == 6


def test_clips_without_a_group_are_groups_of_their_own():
    recordings = make(list("ab") * 50, groups=["x", "x"] + [""] * 98)
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    assert len(parts["test"]) == pytest.approx(20, abs=2)


def test_unlabelled_and_multi_label():
    recordings = make([None] * 50)
    check(recordings, splits.split(recordings, settings()))
    recordings = make([("a", "b"), ("b",), ("b", "a")] * 20)
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    assert splits.first_labels(recordings).tolist() == [0, 1, 1] * 20
    assert splits.class_counts(recordings, np.arange(60)).tolist() == [40, 60]
    assert np.bincount(splits.first_labels(recordings)[parts["test"]]).tolist() == [4, 8]


def test_official_folds():
    folds = [k % 5 + 1 for k in range(100)]
    recordings = make(
        [f"c{k % 4}" for k in range(100)], folds=folds, groups=[f"g{k % 25}" for k in range(100)]
    )
    for fold in range(1, 6):
        parts = splits.split(recordings, settings(fold=fold))
        check(recordings, parts)
        assert {folds[i] for i in parts["test"]} == {fold} and len(parts["test"]) == 20
        assert len(parts["validation"]) == pytest.approx(16, abs=4)
    assert (
        len(splits.split(recordings, settings(fold=1, validation_fraction=0.0))["validation"]) == 0
    )
    with pytest.raises(UserError, match=r"data.fold is 6: .* 1, 2, 3, 4, 5"):
        splits.split(recordings, settings(fold=6))
    with pytest.raises(UserError, match="none"):
        splits.split(make(list("abab")), settings(fold=1))


def test_official_splits():
    names = ["train"] * 60 + ["test"] * 20
    recordings = make(list("ab") * 40, splits=names)
    parts = splits.split(recordings, settings())
    check(recordings, parts)
    assert parts["test"].tolist() == list(range(60, 80)) and len(parts["validation"]) == 12
    recordings = make(list("ab") * 40, splits=["train"] * 50 + ["validation"] * 10 + ["test"] * 20)
    assert {part: len(index) for part, index in splits.split(recordings, settings()).items()} == {
        "train": 50, "validation": 10, "test": 20
    }  # fmt: skip
    recordings = make(list("ab") * 40, splits=["train"] * 80)
    assert len(splits.split(recordings, settings())["test"]) == 16


def test_leaking_folds_are_an_error():
    recordings = make(
        list("abababab"), folds=[1, 1, 1, 1, 2, 2, 2, 2], groups=list("uvwxxyz") + [""]
    )
    assert splits.leak(recordings, {"a": np.arange(4), "b": np.arange(4, 8)}) == ["x"]
    with pytest.raises(UserError, match="share the group 'x'"):
        splits.split(recordings, settings(fold=1))


@pytest.mark.parametrize("holdout", [(0.6, 0.4), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_shares_that_are_none(holdout):
    with pytest.raises(UserError, match="data.holdout"):
        splits.split(make(list("abab")), settings(holdout=holdout))


@pytest.mark.parametrize("groups", [None, [f"g{k % 40}" for k in range(200)]])
def test_kfold(groups):
    recordings = make([f"c{k % 4}" for k in range(200)], groups=groups)
    folds = splits.kfold(recordings, 5, 0)
    assert np.bincount(folds).tolist() == [40] * 5
    for fold in range(5):
        assert splits.class_counts(recordings, np.flatnonzero(folds == fold)).tolist() == [10] * 4
    assert splits.leak(recordings, {str(k): np.flatnonzero(folds == k) for k in range(5)}) == []
    assert np.array_equal(folds, splits.kfold(recordings, 5, 0))
    assert not np.array_equal(folds, splits.kfold(recordings, 5, 1))
    with pytest.raises(UserError, match="too few"):
        splits.kfold(recordings, 41 if groups else 51, 0)


def test_fewer_labels_are_nested_and_stratified():
    recordings = make([f"c{k % 4}" for k in range(400)])
    whole = splits.split(recordings, settings())
    earlier: set[int] = set()
    for share in (0.05, 0.2, 0.5):
        parts = splits.split(recordings, settings(label_fraction=share))
        assert splits.class_counts(recordings, parts["train"]).tolist() == [round(60 * share)] * 4
        assert np.array_equal(parts["test"], whole["test"]) and np.array_equal(
            parts["validation"], whole["validation"]
        )
        assert earlier <= set(parts["train"]) <= set(whole["train"])
        earlier = set(parts["train"])
    parts = splits.split(recordings, settings(labels_per_class=7))
    assert splits.class_counts(recordings, parts["train"]).tolist() == [7] * 4


def test_fewer_labels_with_unlabelled_clips():
    recordings = make(["a", "b", None, None] * 10)
    train = np.arange(40)
    assert len(splits.subset(recordings, train, settings(label_fraction=0.5))) == 20
    kept = splits.subset(recordings, train, settings(labels_per_class=3))
    assert splits.class_counts(recordings, kept).tolist() == [3, 3] and len(kept) == 6
    assert len(splits.subset(make([None] * 4), np.arange(4), settings(labels_per_class=3))) == 0
    # Clips that are known to have no label are a class of their own.
    recordings = make(["a", (), (), None] * 10)
    kept = splits.subset(recordings, train, settings(labels_per_class=3))
    assert sorted(recordings.labels[i] for i in kept) == [()] * 3 + [("a",)] * 3


def test_balance():
    recordings = make(["a"] * 20 + ["b"] * 5 + ["c"] * 8)
    train = np.arange(33)
    assert splits.balance(recordings, train, "none", 0) is train
    over = splits.balance(recordings, train, "over", 0)
    assert splits.class_counts(recordings, over).tolist() == [20] * 3
    assert np.bincount(over)[20:25].tolist() == [4] * 5 and set(np.bincount(over)[25:]) == {2, 3}
    under = splits.balance(recordings, train, "under", 0)
    assert splits.class_counts(recordings, under).tolist() == [5] * 3 and len(set(under)) == 15
    assert not np.array_equal(under, splits.balance(recordings, train, "under", 1))
    unknown = make([None] * 4)
    for how, size in (("over", 5), ("under", 2)):
        assert len(splits.balance(unknown, np.arange(4), how, 0)) == 4
        recordings = make(["a"] * 2 + [()] * 5 + [None] * 9)
        kept = [recordings.labels[i] for i in splits.balance(recordings, np.arange(16), how, 0)]
        assert sorted(kept) == [()] * size + [("a",)] * size


def test_no_combination_of_small_sets_stops_it():
    rng = np.random.default_rng(0)
    for clips, classes, groups in itertools.product((1, 2, 5, 30), (1, 2, 7), (0, 1, 3, 12)):
        columns = {"groups": [f"g{k}" for k in rng.integers(groups, size=clips)]} if groups else {}
        recordings = make([f"c{k}" for k in rng.integers(classes, size=clips)], **columns)
        check(recordings, splits.split(recordings, settings()))


def rare_word(rare=(0,), speakers=5):
    """Clips of a word that all speakers say, and one of a word that only some say."""
    labels = [label for s in range(speakers) for label in ["a"] * 10 + ["rare"] * (s in rare)]
    groups = [f"s{s}" for s in range(speakers) for _ in range(10 + (s in rare))]
    return make(labels, groups=groups)


def lost(recordings, parts):
    """Classes that are in the data and not in training."""
    whole = splits.class_counts(recordings, np.arange(len(recordings)))
    missing = (splits.class_counts(recordings, parts["train"]) == 0) & (whole > 0)
    return [recordings.class_names[k] for k in np.flatnonzero(missing)]


def test_no_class_is_lost_to_groups_where_another_choice_keeps_it():
    """One speaker of five has a word for himself: 81 of these 200 splits held him out."""
    recordings, shares = rare_word(), []
    for seed in range(200):
        rest, held = splits.hold_out(recordings, np.arange(len(recordings)), 0.5, seed)
        assert (splits.class_counts(recordings, rest) > 0).all()
        shares.append(len(held) / len(recordings))
    assert 0.35 < np.mean(shares) < 0.5 and min(shares) > 0.3
    for seed in range(20):
        two = rare_word((0, 1))
        assert lost(two, splits.split(two, settings(split_seed=seed))) == []


def test_a_class_that_is_lost_whatever_is_held_out_is_told_once(caplog):
    words = [f"only speaker {k} says it" for k in range(3)]
    labels = [label for word in words for label in [word] * 3 + ["all say it"] * 9]
    recordings = make(labels, groups=[f"s{k // 12}" for k in range(36)])
    for _ in range(2):
        parts = splits.split(recordings, settings(holdout=(0.7, 0.0, 0.3)))
        check(recordings, parts)
        assert len(parts["test"]) == 12
    (word,) = lost(recordings, parts)
    (record,) = caplog.records
    assert word in words and record.getMessage().startswith(
        f"no training clip has the label {word!r}: all of its clips are in the validation or test"
    )


def test_official_folds_that_lack_a_class_are_told(caplog):
    recordings = make(list("xxyyyzzz"), folds=[1, 1, 2, 2, 3, 3, 3, 2])
    splits.split(recordings, settings(fold=1, validation_fraction=0.0))
    assert "no training clip has the label 'x'" in caplog.text
    caplog.clear()
    splits.split(recordings, settings(fold=3, validation_fraction=0.0))
    assert not caplog.records


def test_tags_of_one_clip_stay_in_training_and_the_shares_are_kept():
    """Of 500 clips 300 have a tag of their own beside their first."""
    labels = [(f"c{k % 2}", *[f"tag{k}"] * (k % 5 < 3)) for k in range(500)]
    recordings = make(labels)
    for seed in range(5):
        rest, held = splits.hold_out(recordings, np.arange(500), 0.2, seed)
        assert (splits.class_counts(recordings, rest) > 0).all() and len(held) == 100


@st.composite
def data_sets(draw):
    """A few clips with no, one or several labels, known or not, some in groups."""
    names = st.sampled_from("abcd")
    several = st.lists(names, max_size=2, unique=True).map(tuple)
    clip = st.tuples(st.one_of(st.none(), several, names), st.sampled_from(["", *"uvwxyz"]))
    clips = draw(st.lists(clip, min_size=1, max_size=30))
    groups = [group for _, group in clips] if draw(st.booleans()) else None
    return make([label for label, _ in clips], groups=groups)


quick = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


@quick
@hypothesis.given(data_sets(), st.integers(0, 2**31), st.floats(0.05, 0.9))
def test_any_split_is_whole_repeatable_and_keeps_the_classes_that_it_can(recordings, seed, share):
    data = settings(split_seed=seed, holdout=(1 - share, share / 2, share / 2))
    parts = splits.split(recordings, data)
    check(recordings, parts)
    again = splits.split(recordings, data)
    assert all(np.array_equal(parts[part], again[part]) for part in splits.PARTS)
    everything = np.arange(len(recordings))
    rest, held = splits.hold_out(recordings, everything, share, seed)
    if lost(recordings, {"train": rest}):
        # Then each group, and each clip without one, has all clips of some class, or all that
        # are unlabelled, or all without any label, and nothing else.
        groups = recordings.groups or [""] * len(recordings)
        units = np.array([group or str(k) for k, group in enumerate(groups)])
        kinds = strata(recordings)
        for unit in set(units):
            alone = not set(kinds[units == unit]) & set(kinds[units != unit])
            assert alone or lost(recordings, {"train": everything[units != unit]})


@quick
@hypothesis.given(data_sets(), st.integers(0, 99), st.integers(1, 9))
def test_any_subset_is_nested_and_any_balance_even(recordings, seed, count):
    train = np.arange(len(recordings))
    few, more = (
        set(splits.subset(recordings, train, settings(split_seed=seed, labels_per_class=n)))
        for n in (count, count + 1)
    )
    labels = recordings.labels
    assert few <= more <= set(train) and all(labels[i] is not None for i in more)
    known = {found[:1] for found in labels if found is not None}
    for how in ("over", "under"):
        kept = [labels[i] for i in splits.balance(recordings, train, how, seed)]
        if known:
            firsts = [found[:1] for found in kept]
            assert set(firsts) == known and len({firsts.count(first) for first in known}) == 1
        else:
            assert kept == list(labels)
