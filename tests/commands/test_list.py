"""`sacjax list`: every kind has names, and each name one whole line from its docstring."""

import pytest

from sacjax.commands import list as list_command

KNOWN = {
    "objectives": {"classification", "wav2vec2"},
    "encoders": {"audionet", "small_cnn", "spectrogram_resnet", "wav2vec2"},
    "frontends": {"mel", "leaf", "sincnet", "pcen"},
    "augmentations": {"gain (waveform)", "time_mask (spectrogram)", "mixup (both)"},
    "sources": {"arrayrecord", "folder", "manifest", "synthetic", "tfds"},
    "evaluators": {"classification", "knn", "linear", "objective"},
    "configs": {"configs/quickstart.py", "configs/wav2vec2/finetune.py"},
}


@pytest.mark.parametrize("kind", KNOWN)
def test_each_kind_is_listed_by_name_with_a_line(kind, capsys):
    assert list_command.main([kind]) == 0
    lines = dict(
        line.split("  ", 1) for line in map(str.strip, capsys.readouterr().out.splitlines()) if line
    )
    assert KNOWN[kind] <= lines.keys()
    for name, meaning in lines.items():
        assert len(meaning.strip()) > 20 and meaning.rstrip().endswith("."), name


def test_without_a_kind_all_are_listed(capsys):
    assert list_command.main([]) == 0
    out = capsys.readouterr().out
    for kind, names in KNOWN.items():
        assert f"{kind}:" in out.splitlines()
        assert all(f"  {name} " in out for name in names)


def test_what_there_is_not(capsys):
    with pytest.raises(SystemExit) as stopped:
        list_command.main(["objective"])
    assert stopped.value.code == 2 and "invalid choice: 'objective'" in capsys.readouterr().err
