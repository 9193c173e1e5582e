"""Which stages read the same recordings, and share their table."""

import pytest
from sounds import settings

from sacjax.data import sources

MANIFEST = dict(source="manifest", path="list.csv")


@pytest.mark.parametrize(
    ("one", "changes", "same"),
    [
        (MANIFEST, dict(fold=2, label_fraction=0.1, crop="center", workers=3, cache=True), True),
        (MANIFEST, dict(seconds=3.0, sample_rate=8000, split_seed=4), True),
        (MANIFEST, dict(path="other.csv"), False),
        (MANIFEST, dict(group_pattern="(a)"), False),
        (MANIFEST, dict(multi_label=True), False),
        (MANIFEST, dict(allow_outside_root=True), False),
        (dict(source="synthetic"), dict(fold=2, balance="over"), True),
        (dict(source="synthetic"), dict(split_seed=4), False),  # other sounds
        (dict(source="synthetic"), dict(seconds=3.0), False),
        (dict(source="synthetic"), dict(holdout=(0.5, 0.5, 0.0)), False),  # its splits follow it
        (MANIFEST, dict(holdout=(0.5, 0.5, 0.0)), True),
        (dict(source="tfds", name="esc50/esc10"), dict(sample_rate=8000), False),
        (dict(source="huggingface", path="d"), dict(sample_rate=8000, fold=2), True),
        (dict(source="huggingface", path="d"), dict(label_column="x"), False),
    ],
)
def test_stages_share_what_is_the_same(one, changes, same):
    assert sources.same(settings(**one), settings(**one | changes)) is same
