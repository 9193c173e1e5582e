"""What each primitive of JAX is in ONNX: functions of (graph, equation, inputs) and their table."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sacjax.errors import UserError
from sacjax.onnx import indexing
from sacjax.onnx.graph import Complex, Graph, Value, constant, dtype_of

Rule = Callable[..., Value | Complex | list[Value]]

# These are never computed beforehand: they only say how a constant is to be seen.
LAZY = {"broadcast_in_dim", "iota", "dim_as_value"}


def _of(equation: Any, name: str, shape: Sequence[Any] | None = None) -> Value:
    """Returns a tensor as the output of an equation; `shape`: of which axes are put off."""
    aval = equation.outvars[0].aval
    return Value(tuple(aval.shape if shape is None else shape), dtype_of(aval.dtype), name)


def _refuse(what: str) -> UserError:
    return UserError(f"--format=onnx does not know {what}, which this model uses: use stablehlo")


def _together(*values: Value) -> tuple[Any, ...]:
    """Returns the shape of several values of one rank, or of scalars, broadcast."""
    rank = max(len(x.shape) for x in values)
    shapes = [(1,) * (rank - len(x.shape)) + x.shape for x in values]

    def longest(sizes: Sequence[Any]) -> Any:
        return next((n for n in sizes if not (isinstance(n, int) and n == 1)), 1)

    return tuple(longest(sizes) for sizes in zip(*shapes, strict=True))


def elementwise(kind: str, **attributes: Any) -> Callable[..., Value]:
    """Returns the rule of an operator that goes by element."""

    def rule(graph: Graph, equation: Any, *inputs: Value) -> Value:
        name = graph.op(kind, *map(graph.name, inputs), **attributes)
        return _of(equation, name, _together(*inputs))

    return rule


def logical(kind: str) -> Rule:
    """Returns the rule of an operator of booleans, which JAX also has for integers."""

    def rule(graph: Graph, equation: Any, *inputs: Value) -> Value:
        if inputs[0].dtype != bool:
            raise _refuse(f"JAX's '{equation.primitive.name}' of integers")
        return elementwise(kind)(graph, equation, *inputs)

    return rule


def _not_equal(graph: Graph, equation: Any, a: Value, b: Value) -> Value:
    equal = graph.op("Equal", graph.name(a), graph.name(b))
    return _of(equation, graph.op("Not", equal), _together(a, b))


def _square(graph: Graph, equation: Any, x: Value) -> Value:
    name = graph.name(x)
    return _of(equation, graph.op("Mul", name, name), x.shape)


def _integer_power(graph: Graph, equation: Any, x: Value) -> Value:
    power = equation.params["y"]
    if power == 2:
        return _square(graph, equation, x)
    exponent = graph.initializer(np.array(power, x.dtype))
    return _of(equation, graph.op("Pow", graph.name(x), exponent), x.shape)


def _reciprocal_root(graph: Graph, equation: Any, x: Value) -> Value:
    return _of(equation, graph.op("Reciprocal", graph.op("Sqrt", graph.name(x))), x.shape)


def _with_number(kind: str, number: float, inner: str, first: bool) -> Rule:
    """Returns the rule of two operators: `inner` of x, and `kind` of that and a number.

    Args:
      kind: of two inputs.
      number: one of them.
      inner: of one input; Identity for none.
      first: whether the number comes first.
    """

    def rule(graph: Graph, equation: Any, x: Value) -> Value:
        value = graph.op(inner, graph.name(x))
        fixed = graph.initializer(np.array(number, x.dtype))
        return _of(
            equation, graph.op(kind, *((fixed, value) if first else (value, fixed))), x.shape
        )

    return rule


def _log_of_one_more(graph: Graph, equation: Any, x: Value) -> Value:
    more = graph.op("Add", graph.name(x), graph.initializer(np.array(1, x.dtype)))
    return _of(equation, graph.op("Log", more), x.shape)


def _clamp(graph: Graph, equation: Any, low: Value, x: Value, high: Value) -> Value:
    raised = graph.op("Max", graph.name(x), graph.name(low))
    return _of(equation, graph.op("Min", raised, graph.name(high)), _together(low, x, high))


def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> Value:
    if which.dtype != bool or len(cases) != 2:
        raise _refuse("a choice of more than two")
    shape, where = _together(which, *cases), graph.name(which)
    no, yes = map(graph.name, cases)
    if cases[0].dtype != bool:
        return _of(equation, graph.op("Where", where, yes, no), shape)
    chosen = graph.op("And", where, yes), graph.op("And", graph.op("Not", where), no)
    return _of(equation, graph.op("Or", *chosen), shape)


def cast(graph: Graph, x: Value, dtype: np.dtype) -> Value:
    """Returns a value in another type."""
    from onnx import helper

    if x.dtype == dtype:
        return x
    if x.array is not None:
        return constant(x.array.astype(dtype))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    return Value(x.shape, dtype, graph.op("Cast", x.name, to=kind))


def _convert(graph: Graph, equation: Any, x: Value) -> Value:
    return cast(graph, x, dtype_of(equation.outvars[0].aval.dtype))


def _same(graph: Graph, equation: Any, x: Value) -> Value:
    return x


def _all_same(graph: Graph, equation: Any, *inputs: Value) -> list[Value]:
    return list(inputs)


# Shapes.


def reshaped(graph: Graph, x: Value, axes: Sequence[int], rank: int) -> Value:
    """Returns a value whose axis k is axis `axes[k]` of `rank`, ascending; the others have 1."""
    shape = [1] * rank
    for axis, size in zip(axes, x.shape, strict=True):
        shape[axis] = size
    if x.array is not None:
        return constant(x.array.reshape(shape))
    new = [axis for axis in range(rank) if axis not in axes]
    if not new:
        return x
    name = graph.op("Unsqueeze", x.name, graph.initializer(np.array(new, np.int64)))
    return Value(tuple(shape), x.dtype, name)


def _broadcast(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    axes = [int(axis) for axis in equation.params["broadcast_dimensions"]]
    return reshaped(graph, x, axes, len(equation.outvars[0].aval.shape))


def _iota(graph: Graph, equation: Any, *sizes: Value) -> Value:
    aval, axis = equation.outvars[0].aval, equation.params["dimension"]
    size = aval.shape[axis]
    if isinstance(size, int):
        row = constant(np.arange(size, dtype=dtype_of(aval.dtype)))
    else:
        scalar = graph.op("Squeeze", graph.size(size))
        ends = [graph.initializer(np.array(k, np.int64)) for k in (0, 1)]
        name = graph.op("Range", ends[0], scalar, ends[1])
        row = cast(graph, Value((size,), np.dtype(np.int64), name), dtype_of(aval.dtype))
    return reshaped(graph, row, [axis], len(aval.shape))


def _size_as_value(graph: Graph, equation: Any) -> Value:
    name = graph.op("Squeeze", graph.size(equation.params["dim"]))
    value = Value((), np.dtype(np.int64), name)
    return cast(graph, value, np.dtype(equation.outvars[0].aval.dtype))


def _reshape(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    shape = equation.outvars[0].aval.shape
    whole = graph.full(x, equation.invars[0].aval.shape)
    return _of(equation, graph.op("Reshape", whole, graph.shape(shape, for_reshape=True)))


def _squeeze(graph: Graph, equation: Any, x: Value) -> Value:
    axes = [int(axis) for axis in equation.params["dimensions"]]
    kept = [size for axis, size in enumerate(x.shape) if axis not in axes]
    name = graph.op("Squeeze", graph.name(x), graph.initializer(np.array(axes, np.int64)))
    return _of(equation, name, kept)


def _transpose(graph: Graph, equation: Any, x: Value) -> Value:
    order = [int(axis) for axis in equation.params["permutation"]]
    name = graph.op("Transpose", graph.name(x), perm=order)
    return _of(equation, name, [x.shape[axis] for axis in order])


def _concatenate(graph: Graph, equation: Any, *inputs: Value) -> Value:
    whole = _whole(graph, equation, inputs)
    return _of(equation, graph.op("Concat", *whole, axis=int(equation.params["dimension"])))


def _whole(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[str]:
    pairs = zip(inputs, equation.invars, strict=True)
    return [graph.full(x, variable.aval.shape) for x, variable in pairs]


def stacked(
    graph: Graph, values: Sequence[Value], one: Sequence[Any], shape: Sequence[Any], axis: int
) -> Value:
    """Returns values of the shape `one`, put together on a new axis, of `shape`."""
    at = graph.initializer(np.array([axis], np.int64))
    rows = [graph.op("Unsqueeze", graph.full(x, one), at) for x in values]
    return Value(tuple(shape), values[0].dtype, graph.op("Concat", *rows, axis=axis))


def _stack(graph: Graph, equation: Any, *inputs: Value) -> Value:
    one, shape = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return stacked(graph, inputs, one, shape, int(equation.params["axis"]))


def _split(graph: Graph, equation: Any, x: Value) -> list[Value]:
    sizes = graph.shape(equation.params["sizes"])
    whole = graph.full(x, equation.invars[0].aval.shape)
    names = graph.ops(
        "Split", [whole, sizes], len(equation.outvars), axis=int(equation.params["axis"])
    )
    variables = zip(equation.outvars, names, strict=True)
    return [Value(variable.aval.shape, x.dtype, name) for variable, name in variables]


# Sums and products.


def reduction(kind: str) -> Rule:
    """Returns the rule of an operator that leaves out axes; of booleans it counts 0 and 1."""

    def rule(graph: Graph, equation: Any, x: Value) -> Value:
        axes = graph.initializer(np.array(equation.params["axes"], np.int64))
        numbers = cast(graph, x, np.dtype(np.int32)) if x.dtype == bool else x
        whole = graph.full(numbers, equation.invars[0].aval.shape)
        result = _of(equation, graph.op(kind, whole, axes, keepdims=0))
        if x.dtype == bool:
            return cast(graph, Value(result.shape, np.dtype(np.int32), result.name), x.dtype)
        return result

    return rule


def _product(graph: Graph, equation: Any, a: Value, b: Value) -> Value:
    """A matrix product where it is plain, so that it can be quantized; else Einsum."""
    (over_a, over_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    rank_a, rank_b = (len(v.aval.shape) for v in equation.invars)
    whole = _whole(graph, equation, [a, b])
    a_last = tuple(over_a) == (rank_a - 1,)
    if a_last and not batch_a and rank_b == 2 and tuple(over_b) == (0,):
        return _of(equation, graph.op("MatMul", *whole))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left, right = ["" for _ in range(rank_a)], ["" for _ in range(rank_b)]
    for one, other in [*zip(batch_a, batch_b, strict=True), *zip(over_a, over_b, strict=True)]:
        left[one] = right[other] = next(letters)
    shared = "".join(left[axis] for axis in batch_a)
    free = ""
    for side in (left, right):
        for axis, letter in enumerate(side):
            if not letter:
                side[axis] = next(letters)
                free += side[axis]
    term = f"{''.join(left)},{''.join(right)}->{shared}{free}"
    return _of(equation, graph.op("Einsum", *whole, equation=term))


def _convolution(graph: Graph, equation: Any, x: Value, kernel: Value) -> Value:
    params = equation.params
    numbers, pads = params["dimension_numbers"], params["padding"]
    spread = any(n != 1 for n in params["lhs_dilation"])
    if spread or params["batch_group_count"] != 1 or any(n < 0 for pair in pads for n in pair):
        raise _refuse("a transposed convolution")
    shape_x, shape_kernel = (variable.aval.shape for variable in equation.invars)
    whole_x = _in_order(graph, graph.full(x, shape_x), numbers.lhs_spec)
    if kernel.array is not None and kernel.shape == shape_kernel:
        whole_kernel = graph.initializer(kernel.array.transpose(numbers.rhs_spec))
    else:
        whole_kernel = _in_order(graph, graph.full(kernel, shape_kernel), numbers.rhs_spec)
    name = graph.op(
        "Conv",
        whole_x,
        whole_kernel,
        strides=[int(n) for n in params["window_strides"]],
        dilations=[int(n) for n in params["rhs_dilation"]],
        pads=[int(n) for n in np.transpose(pads).ravel()],
        group=int(params["feature_group_count"]),
    )
    return _of(equation, _in_order(graph, name, np.argsort(numbers.out_spec).tolist()))


def _in_order(graph: Graph, name: str, order: Sequence[int]) -> str:
    order = [int(axis) for axis in order]
    return name if order == sorted(order) else graph.op("Transpose", name, perm=order)


def _real_fft(graph: Graph, equation: Any, x: Value) -> Complex:
    """Two matrix products: ONNX's DFT is slow, and not everywhere."""
    (size,) = equation.params["fft_lengths"] if len(equation.params["fft_lengths"]) == 1 else (0,)
    if int(equation.params["fft_type"]) != 2 or not size:  # RFFT
        raise _refuse("an FFT other than the real one over the last axis")
    whole = graph.full(x, equation.invars[0].aval.shape)
    angles = 2 * np.pi / size * (np.outer(np.arange(size), np.arange(size // 2 + 1)) % size)
    shape = equation.outvars[0].aval.shape

    def part(matrix: np.ndarray) -> Value:
        name = graph.op("MatMul", whole, graph.initializer(matrix.astype(np.float32)))
        return Value(shape, np.dtype(np.float32), name)

    return Complex(part(np.cos(angles)), part(-np.sin(angles)))


TABLE: dict[str, Rule] = {
    "abs": elementwise("Abs"),
    "add": elementwise("Add"),
    "and": logical("And"),
    "broadcast_in_dim": _broadcast,
    "ceil": elementwise("Ceil"),
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "cos": elementwise("Cos"),
    "dim_as_value": _size_as_value,
    "div": elementwise("Div"),
    "dot_general": _product,
    "eq": elementwise("Equal"),
    "erf": elementwise("Erf"),
    "erfc": _with_number("Sub", 1, "Erf", first=True),
    "exp": elementwise("Exp"),
    "exp2": _with_number("Pow", 2, "Identity", first=True),
    "expm1": _with_number("Sub", 1, "Exp", first=False),
    "fft": _real_fft,
    "floor": elementwise("Floor"),
    "gather": indexing.gather,
    "ge": elementwise("GreaterOrEqual"),
    "gt": elementwise("Greater"),
    "imag": lambda graph, equation, x: x.imag,
    "integer_pow": _integer_power,
    "iota": _iota,
    "le": elementwise("LessOrEqual"),
    "log": elementwise("Log"),
    "log1p": _log_of_one_more,
    "logistic": elementwise("Sigmoid"),
    "lt": elementwise("Less"),
    "max": elementwise("Max"),
    "min": elementwise("Min"),
    "mul": elementwise("Mul"),
    "ne": _not_equal,
    "neg": elementwise("Neg"),
    "not": logical("Not"),
    "optimization_barrier": _all_same,
    "or": logical("Or"),
    "pad": indexing.pad,
    "pow": elementwise("Pow"),
    "real": lambda graph, equation, x: x.real,
    "reduce_and": reduction("ReduceMin"),
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_or": reduction("ReduceMax"),
    "reduce_prod": reduction("ReduceProd"),
    "reduce_sum": reduction("ReduceSum"),
    "rem": elementwise("Mod", fmod=1),
    "reshape": _reshape,
    "rsqrt": _reciprocal_root,
    "scatter": indexing.scatter,
    "select_n": _select,
    "sign": elementwise("Sign"),
    "sin": elementwise("Sin"),
    "slice": indexing.cut,
    "split": _split,
    "sqrt": elementwise("Sqrt"),
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": elementwise("Sub"),
    "tanh": elementwise("Tanh"),
    "transpose": _transpose,
}
