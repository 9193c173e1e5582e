"""`sacjax lr-find` once for real, and its mistakes."""

import pytest

from sacjax.commands import lr_find
from sacjax.errors import UserError
from sacjax.train import lr_find as sweep


def test_command_suggests_a_rate_and_draws(tmp_path, small_overrides, capsys):
    output = tmp_path / "deep" / "out"
    start = ["--config", "configs/folder.py", "--output", str(output), "--steps", "60"]
    assert lr_find.main([*start, *small_overrides]) == 0
    said = capsys.readouterr().out
    rate = float(said.split("suggested learning rate: ")[1].split()[0])
    assert 1e-6 < rate < 1
    assert (output / "lr_find.png").stat().st_size > 5000
    assert len((output / "lr_find.csv").read_text().splitlines()) > 10


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--start", "0"], "--start must lie above 0"),
        (["--start", "1", "--end", "0.1"], "below --end"),
        (["--steps", "9"], "--steps be 10 or more"),
        (["--stage", "finetune"], "--stage is 'finetune'; known: supervised"),
        (["--stpes", "3"], "unknown argument '--stpes'"),
        (["--config.supervised.data.pth=x"], "did you mean 'path'"),
    ],
)
def test_mistakes_of_the_user(tmp_path, small_overrides, flags, message):
    start = ["--config", "configs/folder.py", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=message):
        lr_find.main([*start, *small_overrides, *flags])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_sweep(
    tmp_path, small_overrides, monkeypatch
):
    monkeypatch.setattr(sweep, "find", lambda *_: pytest.fail("it has begun"))
    (tmp_path / "file").touch()
    start = ["--config", "configs/folder.py", "--output", str(tmp_path / "file" / "out")]
    with pytest.raises(UserError, match="--output .*file/out: cannot be written"):
        lr_find.main([*start, *small_overrides])
