"""Files of events: as the field writes them, and mistakes in them."""

import csv
import json
import os

import pytest
from sounds import settings, write

from sacjax import io
from sacjax.data import sources
from sacjax.errors import UserError
from sacjax.inference.event_files import check_output, read_events, write_events
from sacjax.inference.events import Event

FOUND = {
    "a b.wav": [Event(0, 1.25, "dog", 0.9), Event(1.5, 2, "big dog", 0.75)],
    "sub/c.flac": [],
    "sub/d.wav": [Event(0.0625, 3, "cat", 1 / 3)],
}


@pytest.fixture
def found(tmp_path):
    """FOUND, of files in a folder."""
    return {str(tmp_path / "in" / name): events for name, events in FOUND.items()}


def test_a_table_is_a_manifest_of_its_events(tmp_path, found):
    for name in ("a b.wav", "sub/d.wav"):
        write(tmp_path / "in" / name)
    path = tmp_path / "in" / "out.csv"
    write_events(path, found)
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows == [
        ["filename", "start", "end", "label", "probability"],
        ["a b.wav", "0.000", "1.250", "dog", "0.9000"],
        ["a b.wav", "1.500", "2.000", "big dog", "0.7500"],
        ["sub/d.wav", "0.062", "3.000", "cat", "0.3333"],
    ]
    recordings = sources.load(settings(source="manifest", path=str(path)))
    assert recordings.class_names == ("big dog", "cat", "dog")
    read = read_events(path)
    assert set(read) == {os.path.realpath(tmp_path / "in" / n) for n in ("a b.wav", "sub/d.wav")}
    assert read[os.path.realpath(tmp_path / "in" / "a b.wav")][1] == Event(1.5, 2, "big dog")


def test_a_table_in_a_folder_to_which_a_link_leads_finds_its_recordings(tmp_path):
    (tmp_path / "disk" / "deep" / "home").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk" / "deep" / "home")
    write(tmp_path / "sounds" / "a.wav")
    (tmp_path / "sounds" / "b.wav").symlink_to(tmp_path / "sounds" / "a.wav")
    path, event = tmp_path / "home" / "out.csv", Event(0, 1, "dog")
    write_events(path, {str(tmp_path / "sounds" / name): [event] for name in ("a.wav", "b.wav")})
    names = [row["filename"] for row in csv.DictReader(path.open())]
    assert all((path.parent / name).is_file() for name in names)
    assert [os.path.basename(name) for name in names] == ["a.wav", "b.wav"]
    assert set(read_events(path)) == {os.path.realpath(tmp_path / "sounds" / "a.wav")}


def test_a_table_in_a_bucket_names_its_recordings_whole(bucket, tmp_path):
    path = io.to_path("gs://bucket/events/out.csv")
    write_events(path, {str(tmp_path / "a.wav"): [Event(0, 1, "dog")]})
    assert f"{tmp_path}/a.wav,0.000,1.000,dog" in path.read_text()


def test_other_forms(tmp_path, found):
    write_events(tmp_path / "out.jsonl", found)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0] == dict(
        filename=os.path.join("in", "a b.wav"), start=0, end=1.25, label="dog", probability=0.9
    )
    write_events(tmp_path / "out.rttm", found)
    fields = [line.split(" ") for line in (tmp_path / "out.rttm").read_text().splitlines()]
    assert all(len(line) == 10 for line in fields)  # as NIST's RT-09 evaluation plan has it
    assert fields[1] == [
        *("SPEAKER", "a_b", "1", "1.500", "0.500", "<NA>", "<NA>", "big_dog", "0.7500", "<NA>")
    ]
    write_events(tmp_path / "out.txt", dict(list(found.items())[:1]))
    assert (tmp_path / "out.txt").read_text() == (
        "0.000000\t1.250000\tdog\n1.500000\t2.000000\tbig dog\n"
    )


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for name, files, message in [
        ("out.tsv", ["a.wav"], "must end in .csv, .jsonl, .rttm"),
        ("folder.csv", ["a.wav"], "that is a folder"),
        ("out.txt", ["a.wav", "b.wav"], "of one recording, and there are 2"),
        ("out.rttm", ["x/a.wav", "b.wav", "y/a.wav"], "two recordings are 'a'"),
        ("file/out.csv", ["a.wav"], "--timeline .* cannot be written"),
    ]:
        with pytest.raises(UserError, match=message):
            check_output(tmp_path / name, files)
    check_output(tmp_path / "out.csv", ["x/a.wav", "y/a.wav"])


def test_a_reference_may_be_dcases(tmp_path):
    path = tmp_path / "ref.tsv"
    path.write_text("filename\tonset\toffset\tevent_label\na.wav\t0.5\t1.5\tdog|cat\nb.wav\t\t\t\n")
    a, b = (os.path.realpath(tmp_path / name) for name in ("a.wav", "b.wav"))
    assert read_events(path) == {a: [Event(0.5, 1.5, "dog"), Event(0.5, 1.5, "cat")], b: []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,start,end\n", "no column 'label' .there are: filename, start, end"),
        ("filename,start,end,label\na.wav,1,1,dog\n", "line 2: start '1', end '1'.*after the"),
        ("filename,start,end,label\na.wav,1,x,dog\n", "line 2: .*end 'x'.* write seconds"),
        ("filename,start,end,label\na.wav,1,nan,dog\n", "line 2"),
        ("filename,start,end,label\na.wav,-1,1,dog\n", "line 2"),
        ("filename,start,end,label\na.wav,1,2,\n", "line 2: .*and a label"),
        ("filename,start,end,label\na.wav,1\n", "line 2"),
        ("", "no column 'filename'"),
    ],
)
def test_references_that_are_none(tmp_path, text, message):
    (tmp_path / "ref.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_events(tmp_path / "ref.csv")


def test_no_reference_or_no_text(tmp_path):
    with pytest.raises(UserError, match="there is no file of events"):
        read_events(tmp_path / "none.csv")
    (tmp_path / "ref.csv").write_bytes(b"filename,start\xff\xfe")
    with pytest.raises(UserError, match="not a readable table of events"):
        read_events(tmp_path / "ref.csv")
