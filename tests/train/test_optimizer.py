"""The optimizer chain against hand-worked values, PyTorch and SciPy-free arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.train.optimizer import make_optimizer, make_schedule, names, update_ema

PARAMS = {
    "encoder": {
        "conv1": {"kernel": jnp.ones([2, 3]), "bias": jnp.ones([3])},
        "bn": {"scale": jnp.ones([3])},
    },
    "head": {"kernel": jnp.ones([3, 2]), "bias": jnp.zeros([2])},
}


def options(**changes):
    c = config_lib.stage().optimizer
    c.update(
        dict(
            clip_norm=0.0,
            weight_decay=0.0,
            schedule="constant",
            warmup_fraction=0.0,
            learning_rate=0.1,
        )
        | changes
    )
    return c


def run(c, params, grads, steps):
    optimizer = make_optimizer(c, steps, params)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_names_read_like_paths():
    assert names(PARAMS)["encoder"]["conv1"]["kernel"] == "encoder/conv1/kernel"


def test_schedule_warms_up_linearly_and_ends_at_its_final_fraction():
    schedule = make_schedule(options(schedule="cosine", warmup_steps=10, final_fraction=0.1), 110)
    np.testing.assert_allclose([schedule(k) for k in (0, 4, 9)], [0.01, 0.05, 0.1], rtol=1e-6)
    np.testing.assert_allclose(
        schedule(60), 0.1 * (0.9 * 0.5 * (1 + np.cos(np.pi * 0.5)) + 0.1), rtol=1e-6
    )
    np.testing.assert_allclose(schedule(110), 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.1, 0.0505, 0.001]),
        ("constant", [0.1, 0.1, 0.1]),
        ("exponential", [0.1, 0.1 * 0.01 ** (50 / 99), 0.001]),
    ],
)
def test_schedule_shapes(name, expected):
    schedule = make_schedule(options(schedule=name, final_fraction=0.01), 100)
    end = 99 if name == "exponential" else 100
    np.testing.assert_allclose([schedule(k) for k in (0, 50, end)], expected, rtol=1e-5)


def test_one_cycle_peaks_after_its_warm_up():
    schedule = make_schedule(options(schedule="one_cycle", warmup_fraction=0.25), 100)
    rates = [float(schedule(k)) for k in range(100)]
    assert np.argmax(rates) == 25 and np.isclose(max(rates), 0.1) and rates[-1] < 1e-4


def test_sgd_with_momentum_as_torch():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    weight = torch.nn.Parameter(torch.ones(2, 3))
    reference = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.0)
    for _ in range(3):
        reference.zero_grad()
        (weight * 2).sum().backward()
        reference.step()
    got = run(
        options(name="sgd", momentum=0.9),
        {"kernel": jnp.ones([2, 3])},
        {"kernel": jnp.full([2, 3], 2.0)},
        3,
    )
    np.testing.assert_allclose(got["kernel"], weight.detach().numpy(), rtol=1e-6)


def test_adamw_as_torch_with_decay_off_biases_and_norms():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    kernel, bias = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3))
    groups = [{"params": [kernel], "weight_decay": 0.5}, {"params": [bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(4):
        reference.zero_grad()
        ((kernel * 3).sum() + (bias * -2).sum()).backward()
        reference.step()
    params = {"conv": {"kernel": jnp.ones([2, 3]), "bias": jnp.ones([3])}}
    grads = {"conv": {"kernel": jnp.full([2, 3], 3.0), "bias": jnp.full([3], -2.0)}}
    got = run(options(weight_decay=0.5), params, grads, 4)
    np.testing.assert_allclose(got["conv"]["kernel"], kernel.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(got["conv"]["bias"], bias.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "lion"])
def test_each_optimizer_descends_a_quadratic(name):
    c = options(name=name, learning_rate=0.02, schedule="linear")
    params = {"kernel": jnp.asarray([[1.0, -2.0], [3.0, -0.5]])}
    optimizer = make_optimizer(c, 600, params)
    state = optimizer.init(params)
    for _ in range(600):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.abs(params["kernel"]).max()) < 0.3  # from 3


def test_clipping_by_global_norm():
    grads = jax.tree.map(lambda p: jnp.full_like(p, 10.0), PARAMS)
    norm = float(optax.tree.norm(grads))
    got = run(options(name="sgd", momentum=0.0, clip_norm=1.0, learning_rate=1.0), PARAMS, grads, 1)
    np.testing.assert_allclose(1 - got["encoder"]["conv1"]["kernel"], 10 / norm, rtol=1e-5)


def test_multipliers_scale_the_rate_of_the_first_pattern_that_matches():
    rules = (("^head", 1.0), ("conv1", 1e-2), (".", 0.5))
    got = run(
        options(name="sgd", momentum=0.0, multipliers=rules),
        PARAMS,
        jax.tree.map(jnp.ones_like, PARAMS),
        1,
    )
    np.testing.assert_allclose(got["head"]["bias"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(got["encoder"]["conv1"]["bias"], 1 - 1e-3, rtol=1e-6)
    np.testing.assert_allclose(got["encoder"]["bn"]["scale"], 1 - 0.05, rtol=1e-6)


def test_frozen_parameters_move_only_after_they_thaw_and_count_in_no_norm():
    c = options(
        name="sgd",
        momentum=0.0,
        freeze=(("^encoder/bn", 0), ("^encoder", 2)),
        clip_norm=1.0,
        learning_rate=1.0,
    )
    grads = jax.tree.map(lambda p: jnp.full_like(p, 5.0), PARAMS)
    for steps, moved in ((2, False), (3, True)):
        got = run(c, PARAMS, grads, steps)
        assert bool((got["encoder"]["conv1"]["kernel"] != 1).any()) == moved
        np.testing.assert_array_equal(got["encoder"]["bn"]["scale"], 1)
    one = run(c, PARAMS, grads, 1)
    np.testing.assert_allclose(
        one["head"]["bias"], -1 / np.sqrt(8), rtol=1e-5
    )  # the head's 8 entries alone fill the norm


def test_a_pattern_without_a_match_is_an_error():
    with pytest.raises(UserError, match="optimizer.freeze: no parameter's name matches 'hat'"):
        make_optimizer(options(freeze=(("hat", 0),)), 1, PARAMS)


def test_ema_averages_early_steps_and_then_decays():
    np.testing.assert_allclose(
        update_ema({"a": 1.0}, {"a": 2.0}, 0.9, jnp.asarray(0))["a"], 0.1 * 1 + 0.9 * 2
    )
    np.testing.assert_allclose(
        update_ema({"a": 1.0}, {"a": 2.0}, 0.9, jnp.asarray(1000))["a"],
        0.9 * 1 + 0.1 * 2,
        rtol=1e-6,
    )


def test_layer_decay_is_that_of_the_papers_formula():
    """BEiT: layer i of L learns at decay^(L - i), what is below at decay^(L + 1), the head at 1."""
    params = {
        "encoder": {"layers": {"kernel": jnp.ones([3, 2])}, "conv": {"kernel": jnp.ones([2])}},
        "head": {"kernel": jnp.ones([2])},
    }
    c = options(
        name="sgd",
        momentum=0.0,
        learning_rate=1.0,
        schedule="constant",
        warmup_fraction=0.0,
        weight_decay=0.0,
    )
    c.clip_norm, c.layer_decay = 0.0, 0.5
    optimizer = make_optimizer(c, 10, params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(
        -updates["encoder"]["layers"]["kernel"], [[0.125] * 2, [0.25] * 2, [0.5] * 2]
    )
    np.testing.assert_allclose(-updates["encoder"]["conv"]["kernel"], 0.0625)
    np.testing.assert_allclose(-updates["head"]["kernel"], 1.0)
    with pytest.raises(UserError, match="layer_decay is 0.5.*no stack of layers"):
        make_optimizer(c, 10, {"head": params["head"]})


def test_the_learning_rate_follows_the_place_that_is_given():
    c = options(
        name="sgd",
        momentum=0.0,
        learning_rate=1.0,
        schedule="linear",
        warmup_steps=4,
        weight_decay=0.0,
    )
    c.clip_norm, c.final_fraction, c.schedule_steps = 0.0, 0.0, 8
    params = {"w": jnp.ones([1])}
    optimizer = make_optimizer(c, 1000, params)
    state = optimizer.init(params)
    rates = [
        -float(optimizer.update(params, state, params, place=p)[0]["w"][0])
        for p in (0.0, 0.5, 3.0, 4.0, 6.0, 8.0, 9.0)
    ]
    np.testing.assert_allclose(rates, [0.25, 0.375, 1.0, 1.0, 0.5, 0.0, 0.0], atol=1e-6)
