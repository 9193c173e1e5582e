"""From a jaxpr to a graph: constants are computed, calls opened, loops kept."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from sacjax.errors import UserError
from sacjax.onnx import primitives
from sacjax.onnx.graph import IR_VERSION, OPSET, Graph, Size, Value, constant, dtype_of

FOLDED = 1 << 16  # elements: a constant is not computed where it is larger than that and its inputs
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")  # parameters of the primitives that only call


def to_onnx(
    function: Callable[..., jax.Array], arguments: dict[str, jax.ShapeDtypeStruct], output: str
) -> Any:
    """Returns a function of arrays as an `onnx.ModelProto`.

    Args:
      function: pure; of arrays, to one array.
      arguments: {name: shape and type}. A size may be a symbol, or a multiple of one.
      output: the name of what it gives.

    Raises:
      UserError: onnx is not installed, or a primitive is met that is not known here.
    """
    try:
        from onnx import checker, helper
    except ImportError:
        raise UserError("--format=onnx needs onnx: pip install 'sacjax[onnx]'") from None
    closed = jax.make_jaxpr(function)(*arguments.values())
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True], instantiate=True)
    graph = Graph()
    values = []
    for name, struct in arguments.items():
        _find_symbols(graph, name, struct.shape)
        values.append(Value(struct.shape, np.dtype(struct.dtype), name))
    (result,) = run(graph, jaxpr, [constant(x) for x in closed.consts], values)
    gives: Any = jaxpr.outvars[0].aval
    graph.nodes.append(helper.make_node("Identity", [graph.full(result, gives.shape)], [output]))
    described = [_described(name, struct) for name, struct in arguments.items()]
    made = helper.make_graph(
        graph.nodes,
        "sacjax",
        described,
        [_described(output, gives)],
        graph.initializers,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        made, opset_imports=opset, ir_version=IR_VERSION, producer_name="sacjax"
    )
    checker.check_model(model)
    return model


def _described(name: str, struct: Any) -> Any:
    from onnx import helper

    sizes = [size if isinstance(size, int) else str(size) for size in struct.shape]
    kind = helper.np_dtype_to_tensor_dtype(dtype_of(struct.dtype))
    return helper.make_tensor_value_info(name, kind, sizes)


def _find_symbols(graph: Graph, name: str, shape: Sequence[Any]) -> None:
    """Adds the symbols of an argument's sizes, each a symbol or a number times one."""
    sizes = graph.op("Shape", name)
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            continue
        factor, _, symbol = str(size).rpartition("*")
        if symbol not in graph.symbols:
            found = Size(
                graph, graph.op("Gather", sizes, graph.initializer(np.array([axis], np.int64)))
            )
            graph.symbols[symbol] = found.apply("Div", int(factor)) if factor else found


def run(graph: Graph, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]) -> list[Any]:
    """Adds what a jaxpr computes; returns its outputs."""
    known: dict[Any, Any] = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
    )

    def read(atom: Any) -> Any:
        return constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outer, inner = graph.path, str(equation.source_info.name_stack)
        graph.path = "/".join(filter(None, (outer, inner)))
        outputs = _apply(graph, equation, inputs)
        graph.path = outer
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(graph: Graph, equation: Any, inputs: list[Any]) -> list[Any]:
    """Returns the outputs of one equation."""
    primitive, params = equation.primitive.name, equation.params
    if primitive == "scan":
        return _scan(graph, equation, inputs)
    inner = next((params[key] for key in CALLS if key in params), None)
    if inner is not None and hasattr(inner, "eqns"):
        closed = hasattr(inner, "consts")
        consts = [constant(x) for x in inner.consts] if closed else []
        return run(graph, inner.jaxpr if closed else inner, consts, inputs)
    folded = _fold(equation, inputs)
    if folded is not None:
        return folded
    known = primitives.TABLE.get(primitive)
    if known is None:
        raise UserError(
            f"--format=onnx does not know JAX's '{primitive}', which this model uses: "
            "use --format=stablehlo"
        )
    made = known(graph, equation, *inputs)
    return made if isinstance(made, list) else [made]


def _fold(equation: Any, inputs: list[Any]) -> list[Value] | None:
    """Returns the outputs of an equation of small constants; None where it is none."""
    lazily = equation.primitive.name in primitives.LAZY
    if lazily or not all(isinstance(x, Value) and x.array is not None for x in inputs):
        return None
    shapes = [v.aval.shape for v in [*equation.invars, *equation.outvars]]
    if not inputs or not all(isinstance(n, int) for shape in shapes for n in shape):
        return None
    largest = max(FOLDED, sum(x.array.size for x in inputs))
    if any(np.prod(shape) > largest for shape in shapes):
        return None
    whole = [
        np.broadcast_to(x.array, v.aval.shape).astype(v.aval.dtype)
        for x, v in zip(inputs, equation.invars, strict=True)
    ]
    found = equation.primitive.bind(*map(jax.numpy.asarray, whole), **equation.params)
    return [constant(x) for x in (found if equation.primitive.multiple_results else [found])]


def _scan(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    """Returns the outputs of a loop.

    One over constants, such as the parameters of layers, is written out; another is ONNX's Scan.
    """
    params = equation.params
    closed, length, reverse = params["jaxpr"], params["length"], params["reverse"]
    carried, first = params["num_carry"], params["num_consts"]
    consts, carry, over = (
        inputs[:first],
        inputs[first : first + carried],
        inputs[first + carried :],
    )
    own = [constant(x) for x in closed.consts]
    if isinstance(length, int) and all(x.array is not None for x in over):
        rows: list[list[Value]] = []
        for k in reversed(range(length)) if reverse else range(length):
            slices = [_row(x, k) for x in over]
            made = run(graph, closed.jaxpr, own, [*consts, *carry, *slices])
            carry = made[:carried]
            rows.append(made[carried:])
        columns = zip(*(rows[::-1] if reverse else rows), strict=True)
        shapes = [v.aval.shape for v in equation.outvars[carried:]]
        stacked = [
            primitives.stacked(graph, column, shape[1:], shape, 0)
            for column, shape in zip(columns, shapes, strict=True)
        ]
        return [*carry, *stacked]
    return _loop(graph, equation, own, consts, carry, over)


def _row(x: Value, k: int) -> Value:
    """Returns row k of a constant, of which there is only one where a broadcast is put off."""
    assert x.array is not None
    return constant(x.array[min(k, len(x.array) - 1)])


def _loop(
    graph: Graph,
    equation: Any,
    own: list[Value],
    consts: list[Value],
    carry: list[Value],
    over: list[Value],
) -> list[Value]:
    """Returns the outputs of a loop as ONNX's Scan."""
    from onnx import helper

    inner = equation.params["jaxpr"].jaxpr
    avals = [v.aval for v in inner.invars[len(consts) :]]
    starts = [
        graph.full(x, v.aval.shape)
        for x, v in zip([*carry, *over], equation.invars[len(consts) :], strict=True)
    ]
    names = [graph.fresh() for _ in avals]
    kinds = [helper.np_dtype_to_tensor_dtype(dtype_of(aval.dtype)) for aval in avals]
    with graph.body() as nodes:
        arguments = [
            Value(aval.shape, dtype_of(aval.dtype), name)
            for aval, name in zip(avals, names, strict=True)
        ]
        results = run(graph, inner, own, [*consts, *arguments])
        ends = [
            graph.op("Identity", graph.full(x, v.aval.shape))
            for x, v in zip(results, inner.outvars, strict=True)
        ]
    given = [helper.make_tensor_value_info(*pair, None) for pair in zip(names, kinds, strict=True)]
    kinds = [helper.np_dtype_to_tensor_dtype(dtype_of(v.aval.dtype)) for v in inner.outvars]
    gives = [helper.make_tensor_value_info(*pair, None) for pair in zip(ends, kinds, strict=True)]
    directions: dict[str, Any] = {
        f"scan_{name}_directions": [1] * count
        for name, count in (("input", len(over)), ("output", len(ends) - len(carry)))
        if count and equation.params["reverse"]
    }
    outputs = graph.ops(
        "Scan",
        starts,
        len(ends),
        body=helper.make_graph(nodes, "body", given, gives),
        num_scan_inputs=len(over),
        **directions,
    )
    return [
        Value(v.aval.shape, dtype_of(v.aval.dtype), name)
        for v, name in zip(equation.outvars, outputs, strict=True)
    ]
