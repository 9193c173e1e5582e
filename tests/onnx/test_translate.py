"""Functions of JAX arrays as ONNX models, run by onnxruntime, against JAX itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sacjax.errors import UserError
from sacjax.onnx.translate import to_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
WEIGHTS = np.random.default_rng(1).normal(0, 1, [3, 4, 4]).astype(np.float32)


def checked(function, *arrays, symbolic=None):
    """Asserts that onnxruntime gives what JAX gives; returns the kinds of the model's nodes."""
    names = {f"x{k}": array for k, array in enumerate(arrays)}
    structs = {
        name: jax.ShapeDtypeStruct((symbolic or {}).get(name, array.shape), array.dtype)
        for name, array in names.items()
    }
    model = to_onnx(function, structs, "y")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, names)
    expected = np.asarray(function(*map(jnp.asarray, arrays)))
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return [node.op_type for node in model.graph.node]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def of_layers(x):
    def layer(x, weights):
        return jnp.tanh(x @ weights), x.sum()

    x, sums = lax.scan(layer, x, WEIGHTS)
    return x + sums.sum()


def of_times(x):
    def step(state, frame):
        state = 0.5 * state + frame @ WEIGHTS[0]
        return state, state * jnp.where(state > 0, 1, 2)

    _, forth = lax.scan(step, jnp.zeros(4), x)
    last, back = lax.scan(step, jnp.ones(4), x, reverse=True)
    return forth + back + last


FUNCTIONS = {
    "arithmetic": lambda x: x**3 / (1 + x * x) - jnp.exp(-jnp.abs(x)) * jnp.sign(x) + 2**x,
    "integers": lambda x: (x * 10).astype(jnp.int32) // 3 - (x * 7).astype(jnp.int32) % 3,
    "softplus": lambda x: jax.nn.softplus(x) + jnp.expm1(x) + jnp.exp2(x),
    "functions": lambda x: (
        jnp.sin(x)
        + jnp.cos(x)
        + jax.nn.gelu(x)
        + jax.nn.gelu(x, False)
        + jax.nn.sigmoid(x)
        + lax.rsqrt(1 + x * x)
        + jnp.log(1 + x * x)
        + jnp.clip(x, -1, 0.5)
        + jnp.floor(x)
        + jnp.ceil(x)
        + jnp.sqrt(jnp.abs(x))
    ),
    "booleans": lambda x: (
        jnp.where(jnp.where(x > 0, x < 1, ~(x >= -1)) | (x == 0) & (x <= 3), x, -x)
        + (x != x[0]).any(-1, keepdims=True)
        + (x > -9).all()
    ),
    "reductions": lambda x: x.sum(0) + x.max((0, 1)) - x.min(1, keepdims=True)[0] + x.prod(),
    "softmax": lambda x: jax.nn.softmax(x, 0),
    "shapes": lambda x: jnp.concatenate([x.T.reshape(-1), jnp.stack([x, -x], 1)[:, 0].ravel()]),
    "split": lambda x: sum(k * part for k, part in enumerate(jnp.split(x, 3, 1))),
    "slices": lambda x: x[1:, ::2] + x[0, 3] + x[-1:, :3],
    "pads": lambda x: jnp.pad(lax.pad(x, 2.0, ((1, 0, 0), (-1, 3, 0))), 1),
    "broadcast": lambda x: (x[:, None] * jnp.ones([2, 1]) + jnp.arange(2.0)[:, None]).sum(2),
    "bfloat16": lambda x: (x.astype(jnp.bfloat16) * 0 + 1).astype(jnp.float32),
    "take": lambda x: jnp.take_along_axis(
        x, jnp.argsort(WEIGHTS[0].ravel()[:6])[None] + 0 * x.astype(jnp.int32), 1
    ),
    "rows": lambda x: x[jnp.array([2, 0, 0])],
    "set": lambda x: x.at[:, 1:3].set(7.0),
    "dynamic set": lambda x: jax.vmap(
        lambda row, at: lax.dynamic_update_slice(row, jnp.array([8.0, 9.0]), (at,))
    )(x, (3 * jnp.abs(x[:, 0])).astype(jnp.int32)),
    "products": lambda x: jnp.einsum("ab,cb,ad->dc", x, x, x),
    "batched product": lambda x: jnp.einsum(
        "hbd,hcb->hcd", x[:, :, None] * x[:, None], x[:, None] * x[:, :, None]
    ),
    "spectrum": lambda x: jnp.abs(jnp.fft.rfft(x).real) + jnp.fft.rfft(x).imag ** 2,
    "odd spectrum": lambda x: jnp.fft.rfft(x[:, :5]).imag,
    "checkpoint": jax.checkpoint(lambda x: jnp.square(x) + jax.nn.relu(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    checked(FUNCTIONS[name], normal(4, 6))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pads", ["SAME", [(2, 0), (0, 1)]])
def test_convolutions(groups, pads):
    kernel = normal(3, 2, 4 // groups, 6, seed=2)

    def convolution(x):
        return lax.conv_general_dilated(
            x, kernel, (2, 1), pads, rhs_dilation=(1, 2), feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    assert "Conv" in checked(convolution, normal(2, 9, 8, 4))


def test_convolution_over_time():
    def convolution(x):
        kernel = normal(3, 4, 5)
        return lax.conv_general_dilated(
            x, kernel, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )

    checked(convolution, normal(2, 9, 4))


def test_a_loop_over_parameters_is_written_out_and_one_over_time_is_kept():
    assert "Scan" not in checked(of_layers, normal(2, 4))
    assert checked(of_times, normal(7, 4)).count("Scan") == 2


def test_a_product_with_weights_is_one_that_can_be_quantized():
    assert "MatMul" in checked(lambda x: x @ WEIGHTS[0], normal(2, 5, 4))


def test_sizes_that_are_symbols():
    shape = jax.export.symbolic_shape("clips, 4*frames", constraints=["frames >= 3"])

    def function(x):
        blocks = x.reshape(x.shape[0], -1, 4)
        inside = jnp.arange(blocks.shape[1]) < 2
        half = blocks[:, : blocks.shape[1] // 2]
        padded = jnp.pad(x, ((0, 0), (1, 2))).at[:, :1].set(3.0)
        state, _ = lax.scan(lambda s, frame: (s + frame, None), jnp.zeros([4]), blocks.sum(0))
        return (
            jnp.where(inside[:, None], blocks, 0).sum(1) / x.shape[1]
            + half.sum((1, 2))[:, None] * state
            + padded.sum(1, keepdims=True) * x.shape[0]
        )

    for size in ((2, 12), (3, 20)):
        checked(function, normal(*size), symbolic={"x0": shape})


def test_a_size_that_is_a_square():
    def pairs(x):
        return jnp.tanh(x)[:, None] + jnp.arange(x.shape[0] ** 2)

    (n,) = jax.export.symbolic_shape("n")
    checked(pairs, normal(3), symbolic={"x0": (n,)})


def test_several_inputs():
    lengths = np.array([2, 6, 0, 4], np.int32)
    checked(lambda x, n: jnp.where(jnp.arange(6) < n[:, None], x, 0), normal(4, 6), lengths)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (jnp.linalg.inv, "lu"),
        (lambda x: jnp.fft.fft(x).real, "real one"),
        (lambda x: x.at[(9 * x[:, 0]).astype(int)].set(1.0), "drops elements"),
        (lambda x: (x.astype(int) & 3).astype(float), "'and' of integers"),
        (lambda x: lax.pad(x, 0.0, ((0, 0, 1), (0, 0, 0))), "between elements"),
        (lambda x: lax.conv_transpose(x[None], normal(2, 4, 3), (2,), "SAME"), "transposed"),
    ],
)
def test_what_is_not_known_is_named(function, what):
    with pytest.raises(UserError, match=what):
        to_onnx(function, {"x": jax.ShapeDtypeStruct((4, 4), jnp.float32)}, "y")
