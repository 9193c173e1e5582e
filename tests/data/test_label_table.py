"""Labels in a csv beside the sounds, by a key in their names."""

import numpy as np
import pytest
import soundfile as sf
from sounds import settings

from sacjax import config as config_lib
from sacjax.data import hosts, sources
from sacjax.errors import UserError


def folder(root, names, **tables):
    """Writes silent sounds, and tables {name without .csv: text}."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / name, np.zeros(10), 100)
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return root


def load(root, **values):
    return sources.load(settings(source="folder", path=str(root), **values))


def test_labels_of_patients_by_named_columns(tmp_path, capsys):
    """As Coswara's: other columns, a byte order mark, severities of one class, people left out."""
    hosts.tell.cache_clear()
    root = folder(
        tmp_path,
        ["day/p1/cough-heavy.wav", "day/p1/vowel.wav", "day/p2/cough-shallow.wav"]
        + [f"day/p{k}/cough-heavy.wav" for k in (3, 4, 5)],
        people="\ufeffage,id,status\n30,p1,healthy\n40,p2,positive_mild\n50,p3,exposed\n"
        '60,p4,"positive_moderate"\n',
    )
    found = load(
        root,
        label_pattern=r"([^/]+)/cough-",
        label_table="people.csv",
        label_columns=("id", "status"),
        label_values="^(healthy)$|^(positive)_",
    )
    labels = dict(zip(found.names, found.labels, strict=True))
    assert labels == {
        "day/p1/cough-heavy.wav": ("healthy",),
        "day/p1/vowel.wav": None,  # no cough
        "day/p2/cough-shallow.wav": ("positive",),
        "day/p3/cough-heavy.wav": None,  # neither
        "day/p4/cough-heavy.wav": ("positive",),
        "day/p5/cough-heavy.wav": None,  # not in the table
    }
    assert found.class_names == ("healthy", "positive")
    assert "3 of 6 recordings have no label in it, such as 'day/p1/vowel.wav'" in (
        capsys.readouterr().err
    )


def test_tables_of_several_folders_without_a_header(tmp_path):
    """As PhysioNet's of 2016."""
    root = folder(tmp_path, ["training-a/a0001.wav", "training-b/b0002.wav"])
    (root / "training-a" / "REFERENCE.csv").write_text("a0001,1\n")
    (root / "training-b" / "REFERENCE.csv").write_text("b0001,1\nb0002,-1\n")
    found = load(root, label_pattern=r"(\w\d+)\.wav", label_table="training-*/REFERENCE.csv")
    assert found.labels == [("1",), ("-1",)] and found.class_names == ("-1", "1")


def test_brackets_in_the_folders_name_and_rows_without_a_key(tmp_path):
    """A name without a key does not get the label of a row without one."""
    table = "id,label\na,ill\n,well\nc,well\n"
    root = folder(tmp_path / "set [1]", ["a_cough.wav", "b.wav", "c_cough.wav"], t=table)
    found = load(root, **NAMED | dict(label_pattern="(.)_cough"))
    assert found.labels == [("ill",), None, ("well",)]


NAMED = dict(label_pattern=r"(\w+)\.wav", label_table="t.csv", label_columns=("id", "label"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, NAMED, "there is no file '.*t.csv'"),
        ("id,labels\na,x\n", NAMED, "has no column 'label'; did you mean 'labels'"),
        ("", NAMED, "has no column 'id'"),
        ("id,label\na,x\na,y\n", NAMED, "'a' has two labels, 'x' and 'y'"),
        (
            "id,label\n7,x\n",
            NAMED,
            "none of the 1 recordings has a label in it; it has keys such as '7', and .* finds 'a'",
        ),
        ("id,label\na,x\n", NAMED | dict(label_values="^y"), "none of the 1 recordings"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, text, options, message):
    folder(tmp_path, ["a.wav"], **({} if text is None else {"t": text}))
    with pytest.raises(UserError, match=message):
        load(tmp_path, **options)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("label_table", "t.csv", "data.label_pattern must say what to look for"),
        ("label_values", "(", "label_values is .*no regular expression"),
    ],
)
def test_a_config_that_is_none(key, value, message):
    config = config_lib.default()
    config.supervised.data[key] = value
    with pytest.raises(UserError, match=message):
        config_lib.check(config)
