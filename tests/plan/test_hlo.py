"""Collectives of compiled programs, against what the programs were written to send."""

import pytest
from processes import run_python

from sacjax.plan import hlo

PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sacjax.plan import hlo
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
x = jax.ShapeDtypeStruct((64, 100), jnp.float32, sharding=rows)
gathered = jax.jit(lambda x: x * 2, out_shardings=whole).lower(x).compile().as_text()
print([(c.kind, c.bytes, c.times) for c in hlo.collectives(gathered)])
summed = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile().as_text()
print([(c.kind, c.bytes, c.times) for c in hlo.collectives(summed)])
def loop(x):
    body = lambda c, _: (c * jax.lax.with_sharding_constraint((x * c).sum(0), whole), None)
    return jax.lax.scan(body, jnp.ones(100), None, length=7)[0]
looped = jax.jit(loop, out_shardings=whole).lower(x).compile().as_text()
print([(c.kind, c.bytes, c.times) for c in hlo.collectives(looped)])
print(len(hlo.collectives(jax.jit(lambda x: x * 2, out_shardings=rows).lower(x).compile().as_text())))
"""
TEXT = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: bf16[8,128]) -> bf16[64,128] {
  %p = bf16[8,128]{1,0} parameter(0)
  %start = (bf16[8,128]{1,0}, bf16[64,128]{1,0}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={0}
  %reduce = (f32[10]{0}, f32[3,2]{1,0}) all-reduce(%q, %r), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %done = bf16[64,128]{1,0} all-gather-done(%start)
}
"""


def test_compiled_programs():
    done = run_python("-c", PROGRAM, devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    gathered, summed, looped, nothing = done.stdout.splitlines()
    assert (
        gathered == "[('all-gather', 25600.0, 1)]"
    )  # 64 × 100 numbers of 4 bytes arrive on each device
    assert summed == "[('all-reduce', 400.0, 1)]"
    assert looped == "[('all-reduce', 400.0, 7)]"
    assert nothing == "0"


def test_asynchronous_and_tuple_results():
    start, reduce = hlo.collectives(TEXT)
    assert (
        start.kind == "all-gather" and start.bytes == 64 * 128 * 2 and start.groups == "[1,8]<=[8]"
    )
    assert reduce == hlo.Collective("all-reduce", 64.0, 1, "{{0,1},{2,3}}")


SIZES = {"data": 2, "fsdp": 2, "tensor": 2}  # device d is at (d // 4, d // 2 % 2, d % 2)


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", ("fsdp",)),
        ("{{0,1,2,3,4,5,6,7}}", ("data", "fsdp", "tensor")),
        ("{}", ("data", "fsdp", "tensor")),
        ("[4,2]<=[8]", ("tensor",)),  # 0 with 1
        ("[4,2]<=[2,4]T(1,0)", ("data",)),  # 0 with 4
        ("[2,4]<=[8]", ("fsdp", "tensor")),
        ("mesh['a'=2,'b'=4] {'a'}", ("data",)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", ("data", "fsdp")),
        ("{{0,1},{2,3}}", ("tensor",)),  # pairs of source and target
        ("mesh['a'=4,'b'=4] {'a'}", ()),
    ],
)
def test_axes_along_which_is_sent(groups, wanted):
    assert hlo.axes(groups, SIZES) == wanted


LOOP = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %sum = f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%add, backend_config={"window_config":{"estimated_cycles":"70"}}
  %odd = f32[4]{0} negate(%sum), backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%k, %bound), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %first = f32[4]{0} copy(%p), backend_config={"window_config":{"estimated_cycles":"5"}}
  %loop = (s32[], f32[4]) while(%init), condition=%condition, body=%body
}
"""


def test_a_loop_whose_trip_count_stands_in_its_condition_alone():
    assert hlo.collectives(LOOP) == [hlo.Collective("all-reduce", 16.0, 12, "{}")]
    assert hlo.cycles(LOOP) == 5 + 12 * 70
