"""The printed table, read back."""

from sacjax import config as config_lib
from sacjax.plan.step import Plan
from sacjax.plan.table import compare, describe
from sacjax.plan.topology import CHIPS, GIB, Topology


def test_a_table_says_what_the_plans_do():
    memory = dict(parameters=GIB, optimizer=2 * GIB, activations=3 * GIB, peak=7 * GIB)
    one = Plan(
        dict(data=8, fsdp=1, tensor=1), 64, memory, True, {"all-reduce over data": 2e9, "x": 9.0},
        flops=1e12, seconds=0.01, mfu=0.125,
        parts={"attention": 0.006, "convolutions": 0.002, "views": 5e-5},
    )  # fmt: skip
    tight = one._replace(mesh=dict(data=1, fsdp=8, tensor=1), fits=False, sent={})
    where = Topology("h100x8", CHIPS["h100"], [None] * 8)
    config = config_lib.default()
    text = describe(config, "supervised", where, [tight, one], "the fastest that fits", 96)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    assert rows[0][0] == "mesh" and {len(row) for row in rows[:4]} == {9}
    assert rows[2] == ["fsdp 8", "no", *rows[3][2:8], "nothing"]
    parts = [row for row in rows if len(row) == 3]
    rows = [row for row in rows if len(row) != 3]
    assert parts[2:] == [["attention", "6", "60"], ["convolutions", "2", "20"]]
    assert rows[3][:2] == ["data 8", "yes"]
    assert rows[3][2:] == (
        ["7.00", "1.00", "2.00", "3.00", "10", "12.5", "all-reduce over data 2e+03"]
    )
    assert "64 clips of 1 s" in text and "8 TFLOP\n" in text and "989 TFLOP/s" in text
    assert "largest batch that fits it: 96 clips (12 a device)" in text


def test_what_changed_between_two_answers():
    plan = dict(seconds=0.1, mfu=0.2, memory=dict(peak=2 * GIB), sent={"all-reduce over data": 3e6})
    old = dict(plans=[plan | dict(parts={"attention": 0.08, "stem": 0.02})])
    new = dict(plans=[plan | dict(seconds=0.05, mfu=0.4, parts={"attention": 0.02, "loss": 0.03})])
    rows = [line.strip("| ").split(" | ") for line in compare(old, new).splitlines()[2:]]
    assert rows == [
        ["step, ms", "100", "50", "-50.0"],
        ["MFU, %", "20", "40", "+100.0"],
        ["peak, GiB", "2", "2", "+0.0"],
        ["sent, MB", "3", "3", "+0.0"],
        ["attention, ms", "80", "20", "-75.0"],
        ["loss, ms", "0", "30", "new"],
        ["stem, ms", "20", "0", "-100.0"],
    ]
