"""An ONNX graph while it is built, and the values in it.

Shapes may have symbols (`jax.export.symbolic_shape`): their sizes are computed in the graph.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

OPSET, IR_VERSION = 18, 9


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of the program: a constant, or a tensor of the graph.

    A broadcast is put off: where `shape` has 1, the array may stand for a longer axis, which its
    user knows. Elementwise operators of ONNX broadcast by themselves.
    """

    shape: tuple[Any, ...]
    """Sizes, each an int or a symbolic dimension."""

    dtype: np.dtype
    name: str = ""
    """Of the tensor; of a constant: not yet in the graph."""

    array: np.ndarray | None = None
    """Of a constant."""


class Complex(NamedTuple):
    """A complex array, of which ONNX has none, as two."""

    real: Value
    imag: Value


def dtype_of(dtype: Any) -> np.dtype:
    """Returns in which type a value of a JAX type is computed: all floats in float32."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)  # Python's numbers are of 32 bits, as in JAX
    narrow = dtype.kind in "fV" and dtype.itemsize < 4  # bfloat16 is of NumPy's kind V
    return np.dtype(np.float32) if narrow else dtype


def constant(array: Any) -> Value:
    """Returns a constant of an array."""
    array = np.asarray(array)
    array = array.astype(dtype_of(array.dtype), copy=False)
    return Value(array.shape, array.dtype, array=array)


class Graph:
    """Nodes and initializers of a model, in the order in which they are computed."""

    def __init__(self) -> None:
        """Makes an empty graph."""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.symbols: dict[str, Size] = {}  # of the arguments' shapes
        self.path = ""  # of the names that JAX's source gives to what is being added
        self._inner = self.nodes  # of the body that is being built
        self._constants: dict[Any, str] = {}
        self._sizes: dict[Any, str] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._count = 0

    def fresh(self) -> str:
        """Returns a name that no tensor has."""
        self._count += 1
        return f"v{self._count}"

    def op(self, kind: str, *inputs: str, outer: bool = False, **attributes: Any) -> str:
        """Adds a node of one output, and returns its name.

        Args:
          kind: of the operator.
          inputs: names of tensors; "" for one that is left out.
          outer: computed outside the body that is being built.
          attributes: of the operator.
        """
        return self.ops(kind, inputs, 1, outer=outer, **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: int,
        *,
        outer: bool = False,
        **attributes: Any,
    ) -> list[str]:
        """Adds a node of several outputs, and returns their names."""
        from onnx import helper

        names = [self.fresh() for _ in range(outputs)]
        nodes = self.nodes if outer else self._inner
        label = f"{self.path}/{kind}_{names[0]}"
        nodes.append(helper.make_node(kind, list(inputs), names, name=label, **attributes))
        return names

    @contextlib.contextmanager
    def body(self) -> Iterator[list[Any]]:
        """Gives the list to which nodes go meanwhile: a body of a loop."""
        before, self._inner = self._inner, []
        try:
            yield self._inner
        finally:
            self._inner = before

    def initializer(self, array: np.ndarray) -> str:
        """Returns the name of a constant tensor; equal small ones share it."""
        from onnx import numpy_helper

        small = array.size <= 64
        key = (array.tobytes() if small else id(array), array.shape, array.dtype.str)
        if key not in self._constants:
            name = self._constants[key] = self.fresh()
            self._kept.append(array)
            whole = np.ascontiguousarray(array).reshape(array.shape)  # it makes scalars [1]
            self.initializers.append(numpy_helper.from_array(whole, name))
        return self._constants[key]

    def name(self, value: Value) -> str:
        """Returns the tensor of a value, its broadcast still put off."""
        return value.name if value.array is None else self.initializer(value.array)

    def full(self, value: Value, shape: Sequence[Any]) -> str:
        """Returns the tensor of a value that has its whole `shape`."""
        shape = tuple(shape)
        if value.shape == shape:
            return self.name(value)
        return self.op("Expand", self.name(value), self.shape(shape))

    def shape(self, sizes: Sequence[Any], *, for_reshape: bool = False) -> str:
        """Returns an int64 tensor [rank] of sizes.

        Args:
          sizes: ints and symbolic dimensions.
          for_reshape: one that is not known may be -1.
        """
        unknown = [k for k, size in enumerate(sizes) if not isinstance(size, (int, np.integer))]
        if not unknown or (for_reshape and len(unknown) == 1):
            whole = [-1 if k in unknown else int(size) for k, size in enumerate(sizes)]
            return self.initializer(np.array(whole, np.int64))
        return self.op("Concat", *map(self.size, sizes), axis=0, outer=True)

    def size(self, size: Any) -> str:
        """Returns an int64 tensor [1] of an int or a symbolic dimension."""
        if isinstance(size, (int, np.integer)):
            return self.initializer(np.array([size], np.int64))
        if size not in self._sizes:
            # A symbolic dimension prints as an expression of its symbols and of these functions.
            kinds = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}
            calls: dict[str, Any] = {
                name: partial(self._of_sizes, kind) for name, kind in kinds.items()
            }
            text = str(size).replace("^", "**")
            self._sizes[size] = eval(text, {"__builtins__": {}}, calls | self.symbols).name
        return self._sizes[size]

    def _of_sizes(self, kind: str, a: Any, b: Any) -> "Size":
        """Returns what an operator gives of two sizes, none of them negative."""
        first = a if isinstance(a, Size) else Size(self, self.size(a))
        return first.apply(kind, b)


@dataclasses.dataclass(frozen=True)
class Size:
    """A size that the graph computes, int64 [1], with the arithmetic of integers."""

    graph: Graph
    name: str

    def apply(self, kind: str, other: Any) -> "Size":
        """Returns what an operator gives of this size and an int or a Size."""
        other = other.name if isinstance(other, Size) else self.graph.size(other)
        return Size(self.graph, self.graph.op(kind, self.name, other, outer=True))

    def __add__(self, other: Any) -> "Size":
        return self.apply("Add", other)

    def __sub__(self, other: Any) -> "Size":
        return self.apply("Sub", other)

    def __mul__(self, other: Any) -> "Size":
        return self.apply("Mul", other)

    def __neg__(self) -> "Size":
        return self * -1

    def __rsub__(self, other: Any) -> "Size":
        return -self + other

    def __pow__(self, other: int) -> "Size":
        return self if other == 1 else self * self ** (other - 1)

    __radd__, __rmul__ = __add__, __mul__
