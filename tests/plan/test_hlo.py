"""Collectives of compiled programs, against what the programs were written to send."""

import numpy as np
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
nothing = jax.jit(lambda x: x * 2, out_shardings=rows).lower(x).compile().as_text()
print(len(hlo.collectives(nothing)))
def shift(x):
    return jax.lax.ppermute(x, "data", [(k, (k + 1) % 8) for k in range(8)])
for body, spec in (
    (lambda x: jax.lax.psum_scatter(x, "data", scatter_dimension=1, tiled=True), P(None, "data")),
    (lambda x: jax.lax.all_to_all(x, "data", 1, 0, tiled=True), P(None, "data")),
    (shift, P("data")),
):
    body = jax.shard_map(body, mesh=mesh, in_specs=P("data"), out_specs=spec, check_vma=False)
    wide = jax.ShapeDtypeStruct((64, 80), jnp.float32, sharding=rows)
    (c,) = hlo.collectives(jax.jit(body).lower(wide).compile().as_text())
    print((c.kind, c.bytes, c.sent(8)))
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
"""  # noqa: E501


def test_compiled_programs():
    done = run_python("-c", PROGRAM, devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    gathered, summed, looped, nothing, scattered, exchanged, shifted = done.stdout.splitlines()
    # 64 × 100 numbers of 4 bytes arrive on each device.
    assert gathered == "[('all-gather', 25600.0, 1)]"
    assert summed == "[('all-reduce', 400.0, 1)]"
    assert looped == "[('all-reduce', 400.0, 7)]"
    assert nothing == "0"
    # Each device has 8 × 80 numbers of 4 bytes: 2560 bytes, eighths of 320.
    assert scattered == "('reduce-scatter', 320.0, 2240.0)"
    assert exchanged == "('all-to-all', 2560.0, 2240.0)"
    assert shifted == "('collective-permute', 2560.0, 2560.0)"


def test_asynchronous_and_tuple_results():
    start, reduce = hlo.collectives(TEXT)
    assert (
        start.kind == "all-gather" and start.bytes == 64 * 128 * 2 and start.groups == "[1,8]<=[8]"
    )
    assert reduce == hlo.Collective("all-reduce", 64.0, 1, "{{0,1},{2,3}}")


SEVERAL = """
ENTRY %main (p: bf16[8,128], q: f32[2]) -> bf16[64,128] {
  %gather = ((bf16[8,128]{1,0}, f32[2]{0}), (bf16[64,128]{1,0}, f32[16]{0})) all-gather-start(%p, %q), replica_groups=[1,8]<=[8], dimensions={0}
  %permute = (f32[10]{0}, f32[10]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%r), source_target_pairs={{0,1},{1,0}}
}
"""  # noqa: E501


def test_operands_of_what_starts_are_no_result():
    gather, permute = hlo.collectives(SEVERAL)
    assert gather.bytes == 64 * 128 * 2 + 16 * 4
    assert permute.bytes == 40 and permute.groups == "{{0,1},{1,0}}"


TPU = """HloModule jit_step, is_scheduled=true, num_partitions=8

%fused.1 (p0: bf16[8,16]) -> (bf16[8,16], bf16[64,16]) {
  %all-gather.1 = bf16[64,16]{1,0} all-gather(%p0), channel_id=33, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%async_collective_fusion.2 (p0: bf16[8,16]) -> bf16[64,16] {
  %all-gather.2 = bf16[64,16]{1,0} all-gather(%p0), channel_id=33, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%fused.3 (p0: bf16[8,16]) -> bf16[64,16] {
  %all-gather.3 = bf16[64,16]{1,0} all-gather(%p0), channel_id=33, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.4 (input: f32[1024,10]) -> f32[128,10] {
  %all-reduce.2 = f32[1024,10]{1,0:T(8,128)} all-reduce(%input), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[128,10]{1,0} dynamic-slice(%all-reduce.2, %k, %zero), dynamic_slice_sizes={128,10}
}

ENTRY %main (p: bf16[8,16]) -> f32[128,10] {
  %async-collective-start = (bf16[8,16]{1,0}, bf16[64,16]{1,0}) fusion(%p), kind=kCustom, calls=%fused.1
  %fusion.2 = bf16[64,16]{1,0} fusion(%p), kind=kOutput, calls=%async_collective_fusion.2
  %async-collective-done = bf16[64,16]{1,0} fusion(%p), kind=kCustom, calls=%fused.3
  ROOT %fusion = f32[128,10]{1,0} fusion(%q), kind=kCustom, calls=%all-reduce-scatter.4
}
"""  # noqa: E501


def test_what_a_tpu_fuses_is_what_it_sends():
    """As libtpu 0.0.42 spells them: an asynchronous gather in three fusions, and a sum of parts."""
    gather, scatter = hlo.collectives(TPU)
    assert gather[:3] == ("all-gather", 64 * 16 * 2, 1)
    assert scatter[:3] == ("reduce-scatter", 128 * 10 * 4, 1)
    assert scatter.sent(8) == 7 / 8 * 1024 * 10 * 4


def ring(devices, parts):
    """Runs the ring algorithm's reduce-scatter and all-gather on arrays [devices, parts].

    Returns (bytes that each device sent in the one, and in the other); a part is 8 bytes.
    """
    held = np.random.default_rng(0).integers(0, 9, [devices, parts]).astype(np.int64)
    total = held.sum(0)
    sent = np.zeros([2, devices])
    chunks = np.array_split(np.arange(parts), devices)
    for phase in (0, 1):
        for step in range(devices - 1):
            messages = []
            for d in range(devices):
                chunk = chunks[(d + phase - step) % devices]
                messages.append((chunk, held[d, chunk]))
                sent[phase, d] += held[d, chunk].nbytes
            for d, (chunk, values) in enumerate(messages):
                there = (d + 1) % devices
                held[there, chunk] = values + (held[there, chunk] if phase == 0 else 0)
    assert (held == total).all()
    return sent


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_bytes_sent_are_those_of_the_ring_algorithm(devices):
    parts = 4 * devices
    whole = 8.0 * parts
    scatter, gather = ring(devices, parts)
    assert (scatter == hlo.sent_once("reduce-scatter", whole / devices, devices)).all()
    assert (gather == hlo.sent_once("all-gather", whole, devices)).all()
    assert (scatter + gather == hlo.sent_once("all-reduce", whole, devices)).all()
    assert hlo.sent_once("all-to-all", whole, devices) == whole - whole / devices
    assert hlo.sent_once("collective-permute", whole, devices) == whole


def test_bytes_sent_follow_the_groups_and_the_loop():
    scatter = hlo.Collective("reduce-scatter", 100.0, 5, "{{0,1,2,3},{4,5,6,7}}")
    assert scatter.sent(8) == 5 * 3 * 100
    assert scatter._replace(groups="{}").sent(8) == 5 * 7 * 100
    assert scatter._replace(groups="[4,2]<=[8]").sent(8) == 5 * 1 * 100


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
  %first = f32[4]{0} copy(%p), metadata={op_name="jit(step)/part:loss/transpose(jvp(part:stem))/while/body/mul"}, backend_config={"window_config":{"estimated_cycles":"5"}}
  %loop = (s32[], f32[4]) while(%init), condition=%condition, body=%body
}
"""  # noqa: E501


def test_a_loop_whose_trip_count_stands_in_its_condition_alone():
    assert hlo.collectives(LOOP) == [hlo.Collective("all-reduce", 16.0, 12, "{}")]
    assert hlo.cycles(LOOP) == {"": 12 * 70, "stem": 5}
