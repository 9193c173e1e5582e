"""Parts of arrays: JAX's slice, pad, gather and scatter in ONNX.

`gather` and `scatter` become GatherND and ScatterND of the whole index of every element.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from sacjax.errors import UserError
from sacjax.onnx.graph import Graph, Value


def _result(equation: Any, name: str, x: Value) -> Value:
    return Value(equation.outvars[0].aval.shape, x.dtype, name)


def _int64(graph: Graph, numbers: Any) -> str:
    return graph.initializer(np.array(numbers, np.int64))


def cut(graph: Graph, equation: Any, x: Value) -> Value:
    """Returns a slice of fixed bounds and strides."""
    params = equation.params
    rank = len(params["start_indices"])
    strides = params["strides"] or (1,) * rank
    whole = graph.full(x, equation.invars[0].aval.shape)
    name = graph.op(
        "Slice",
        whole,
        graph.shape(params["start_indices"]),
        graph.shape(params["limit_indices"]),
        _int64(graph, range(rank)),
        graph.shape(strides),
    )
    return _result(equation, name, x)


def pad(graph: Graph, equation: Any, x: Value, filler: Value) -> Value:
    """Returns an array padded at its ends, or cut where a pad is negative."""
    config = equation.params["padding_config"]
    if any(int(inside) for _, _, inside in config):
        raise UserError("--format=onnx does not know padding between elements: use stablehlo")
    whole = graph.full(x, equation.invars[0].aval.shape)
    pads = graph.shape([low for low, _, _ in config] + [high for _, high, _ in config])
    return _result(equation, graph.op("Pad", whole, pads, graph.name(filler)), x)


def gather(graph: Graph, equation: Any, x: Value, indices: Value) -> Value:
    """Returns windows of an array; of indices out of bounds, that of the nearest ones."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    offsets = [int(axis) for axis in numbers.offset_dims]
    inside = [
        axis
        for axis in range(len(shape))
        if axis not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    whole = graph.full(x, shape)
    if len(indices.shape) == 1 and indices.array is not None and len(inside) == len(shape):
        starts = [0] * len(shape)
        for axis, start in zip(numbers.start_index_map, indices.array, strict=True):
            starts[axis] = int(start)
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        bounds = graph.shape(starts), graph.shape(ends), _int64(graph, range(len(shape)))
        return _result(equation, graph.op("Slice", whole, *bounds), x)
    where = _Indices(
        graph,
        indices,
        equation.invars[1].aval.shape,
        [axis for axis in range(len(out)) if axis not in offsets],
        out,
    )
    index = where.of_elements(
        shape,
        sizes,
        numbers.start_index_map,
        dict(zip(inside, offsets, strict=True)),
        dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)),
    )
    return _result(equation, graph.op("GatherND", whole, index), x)


def scatter(graph: Graph, equation: Any, x: Value, indices: Value, updates: Value) -> Value:
    """Returns an array with windows of it replaced, all of them within its bounds."""
    params = equation.params
    numbers, shape = params["dimension_numbers"], equation.invars[0].aval.shape
    out = equation.invars[2].aval.shape
    windows = [int(axis) for axis in numbers.update_window_dims]
    inside = [
        axis
        for axis in range(len(shape))
        if axis not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    ]
    sizes: list[Any] = [1] * len(shape)
    for axis, window in zip(inside, windows, strict=True):
        sizes[axis] = out[window]
    _check_kept(
        params["mode"],
        indices,
        [(shape[a], sizes[a]) for a in numbers.scatter_dims_to_operand_dims],
    )
    where = _Indices(
        graph,
        indices,
        equation.invars[1].aval.shape,
        [axis for axis in range(len(out)) if axis not in windows],
        out,
    )
    index = where.of_elements(
        shape,
        sizes,
        numbers.scatter_dims_to_operand_dims,
        dict(zip(inside, windows, strict=True)),
        dict(
            zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
        ),
    )
    whole, new = graph.full(x, shape), graph.full(updates, out)
    return _result(equation, graph.op("ScatterND", whole, index, new), x)


def _check_kept(mode: Any, indices: Value, bounds: Sequence[tuple[Any, Any]]) -> None:
    """Raises UserError where a window may be out of bounds, and is then not written."""
    if mode != GatherScatterMode.FILL_OR_DROP:
        return
    if indices.array is not None and (indices.array >= 0).all():
        ends = indices.array + np.array([size for _, size in bounds])
        # A size that is not known holds the constants that were traced with it.
        known = [(k, whole) for k, (whole, _) in enumerate(bounds) if isinstance(whole, int)]
        if all((ends[..., k] <= whole).all() for k, whole in known):
            return
    raise UserError("--format=onnx does not know a scatter that drops elements: use stablehlo")


class _Indices:
    """Where the windows of a gather or scatter begin."""

    def __init__(
        self,
        graph: Graph,
        indices: Value,
        shape: Sequence[Any],
        axes: Sequence[int],
        out: Sequence[Any],
    ):
        """Takes indices [*rows, n].

        Args:
          graph: to which nodes are added.
          indices: the indices.
          shape: of `indices`.
          axes: of the rows among those of `out`.
          out: the shape of all windows.
        """
        self.graph, self.axes, self.out = graph, axes, tuple(out)
        self.indices, self.shape = graph.full(indices, shape), shape

    def of_elements(
        self,
        shape: Sequence[Any],
        sizes: Sequence[Any],
        starts: Sequence[int],
        inside: dict[int, int],
        batching: dict[int, int],
    ) -> str:
        """Returns int64 [*out, rank]: the index in an array of each element of all windows.

        Args:
          shape: of the array.
          sizes: of a window.
          starts: which axis each of the n numbers is of.
          inside: {axis of the array: axis of `out` along which the window lies}.
          batching: {axis of the array: axis of the indices that goes with it}.
        """
        graph, columns, order = self.graph, [], [int(axis) for axis in starts]
        for axis, size in enumerate(shape):
            terms = []
            if axis in order:
                last = graph.op("Sub", graph.size(size), graph.size(sizes[axis]))
                positive = graph.op("Max", self._start(order.index(axis)), _int64(graph, 0))
                terms.append(graph.op("Min", positive, last))
            if axis in batching:
                terms.append(self._along(self.axes[batching[axis]], size))
            if axis in inside and not (isinstance(sizes[axis], int) and sizes[axis] == 1):
                terms.append(self._along(inside[axis], sizes[axis]))
            name = terms[0] if terms else _int64(graph, 0)
            for term in terms[1:]:
                name = graph.op("Add", name, term)
            whole = graph.op("Expand", name, graph.shape(self.out))
            columns.append(graph.op("Unsqueeze", whole, _int64(graph, [-1])))
        return graph.op("Concat", *columns, axis=-1)

    def _start(self, number: int) -> str:
        """Returns the `number`-th index of each row, int64, with 1 on the axes within a window."""
        graph = self.graph
        column = graph.op("Gather", self.indices, _int64(graph, number), axis=-1)
        wide = graph.op("Cast", column, to=7)  # int64
        new = [axis for axis in range(len(self.out)) if axis not in self.axes]
        return graph.op("Unsqueeze", wide, _int64(graph, new)) if new else wide

    def _along(self, axis: int, size: Any) -> str:
        """Returns 0, 1, ... size - 1 along an axis of the windows, int64."""
        graph = self.graph
        ends = _int64(graph, 0), _int64(graph, 1)
        row = graph.op("Range", ends[0], graph.op("Squeeze", graph.size(size)), ends[1])
        new = [k for k in range(len(self.out)) if k != axis]
        return graph.op("Unsqueeze", row, _int64(graph, new)) if new else row
