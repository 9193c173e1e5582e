"""Fuzzing in this process: inputs repeat with their seed, and what is a finding is told as one."""

import numpy as np
import pytest

from launch.benchmarks import fuzz
from launch.benchmarks.fuzz_cases import audio, mutate
from launch.benchmarks.fuzz_cases.case import Case
from sacjax.errors import UserError


def test_mutations_repeat_with_their_seed_and_change_most_inputs():
    data = np.random.default_rng(0).bytes(1000)
    mutated = [mutate.of_bytes(np.random.default_rng(seed), data) for seed in range(50)]
    again = [mutate.of_bytes(np.random.default_rng(seed), data) for seed in range(50)]
    assert mutated == again and sum(one != data for one in mutated) > 45
    assert len(set(mutated)) > 45 and min(map(len, mutated)) < 900 < 1000 < max(map(len, mutated))
    value = {"a": [1, {"b": 2.0}], "c": "text"}
    values = [mutate.of_json(np.random.default_rng(seed), value) for seed in range(50)]
    assert sum(one != value for one in values) > 45
    assert value == {"a": [1, {"b": 2.0}], "c": "text"}  # the original stays
    assert mutate.of_bytes(np.random.default_rng(0), b"") is not None


def test_only_refusals_are_no_findings(tmp_path, monkeypatch):
    def check(rng, corpus, folder):
        raised = {1: UserError("a\nb"), 2: KeyError("k"), 3: SystemExit(2), 4: MemoryError()}
        if corpus in raised:
            raise raised[corpus]
        return "cut short" if corpus == 5 else ""

    monkeypatch.setitem(fuzz.CASES, "wav", Case(1, lambda folder: None, check))
    found = [fuzz.read_one("wav", 1, number, tmp_path) for number in range(6)]
    outcomes = ["read", "refused", "exception", "exception", "memory", "refused"]
    assert [outcome for outcome, _ in found] == outcomes
    assert found[1][1] == "a b" and found[5][1] == "cut short"
    assert "KeyError: 'k' (" in found[2][1] and "check)" in found[2][1]


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_sound_files_of_our_corpus_are_read_and_broken_ones_are_bad_clips(kind, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    audio.corpus(corpus)
    for path in corpus.glob(f"*.{kind}"):
        folder = tmp_path / path.stem / "label"
        folder.mkdir(parents=True)
        (folder / path.name).write_bytes(path.read_bytes())
        assert audio.read_folder(folder.parent) == ""
        (folder / path.name).write_bytes(path.read_bytes()[:20])
        assert audio.read_folder(folder.parent) != ""


def test_the_table_has_a_row_a_kind_and_one_a_place_with_findings():
    row = dict.fromkeys(fuzz.FINDINGS, 0)
    row |= dict(inputs=9, read=3, refused=6, slowest_seconds=0.5, most_mib=7)
    head, rule, line = fuzz.table({"wav": row}).splitlines()
    assert line == "| wav | 9 | 3 | 6 | 0 | 0 | 0 | 0 | 0.5 | 7 |"
    assert head.count("|") == rule.count("|") == line.count("|")
    findings = [dict(seed=seed, why=f"KeyError: '{seed}' (a.py:7, f)") for seed in (3, 4)]
    assert fuzz.places({"wav": row | {"findings": []}}) == ""
    *_, line = fuzz.places({"wav": row | {"findings": findings}}).splitlines()
    assert line == "| wav | a.py:7, f | 2 | 3 | KeyError: '3' |"
