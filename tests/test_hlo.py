"""Collectives of compiled programs, against what the programs were written to send."""

from processes import run_python

from sacjax import hlo

PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sacjax import hlo
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
    assert gathered == "[('all-gather', 25600.0, 1)]"  # 64 × 100 numbers of 4 bytes arrive on each device
    assert summed == "[('all-reduce', 400.0, 1)]"
    assert looped == "[('all-reduce', 400.0, 7)]"
    assert nothing == "0"


def test_asynchronous_and_tuple_results():
    start, reduce = hlo.collectives(TEXT)
    assert start.kind == "all-gather" and start.bytes == 64 * 128 * 2 and start.groups == "[1,8]<=[8]"
    assert reduce == hlo.Collective("all-reduce", 64.0, 1, "{{0,1},{2,3}}")
