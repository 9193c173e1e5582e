"""The optimizer chain against hand-worked values, PyTorch and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sacjax.errors import UserError
from sacjax.train.optimizer import (
    Options,
    frozen_statistics,
    make_optimizer,
    make_schedule,
    names,
    update_ema,
)

PARAMS = {
    "encoder": {
        "conv1": {"kernel": jnp.ones([2, 3]), "bias": jnp.ones([3])},
        "bn": {"scale": jnp.ones([3])},
    },
    "head": {"kernel": jnp.ones([3, 2]), "bias": jnp.zeros([2])},
}


def options(**changes):
    plain = dict(
        clip_norm=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup_fraction=0.0,
        learning_rate=0.1,
    )
    return Options(**plain | changes)


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


ENCODER = jnp.asarray([[1.0, -2.0], [3.0, 0.5]])


def course(c, frozen_for, steps):
    """The encoder's parameters after each of `steps` updates by gradients that change, of which the
    first is update `frozen_for`; and the head's, which are never frozen, by the same gradients."""
    params = {"encoder": {"kernel": ENCODER}, "head": {"kernel": ENCODER}}
    optimizer = make_optimizer(c, 100, params)
    state, seen, update = optimizer.init(params), [], jax.jit(optimizer.update)
    for step in range(frozen_for + steps):
        scale = jnp.sin(1.0 + step - frozen_for)  # as seen from the thaw
        grads = jax.tree.map(lambda p: scale * jnp.cos(ENCODER), params)  # noqa: B023
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen[frozen_for:], seen[:frozen_for]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor"])
def test_what_thaws_late_begins_as_if_training_began_then(name):
    late, before = course(options(name=name, weight_decay=0.3, freeze=(("^enc", 9),)), 9, 5)
    fresh, _ = course(options(name=name, weight_decay=0.3), 0, 5)
    for a, b in zip(late, fresh, strict=True):
        np.testing.assert_allclose(a["encoder"]["kernel"], b["encoder"]["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(before[-1]["encoder"]["kernel"], ENCODER)
    never_frozen, _ = course(options(name=name, weight_decay=0.3), 9, 5)
    np.testing.assert_allclose(
        late[-1]["head"]["kernel"], never_frozen[-1]["head"]["kernel"], rtol=1e-5
    )


def test_what_thaws_late_takes_the_steps_of_a_fresh_adamw():
    c = options(learning_rate=0.01, weight_decay=0.1, freeze=(("^enc", 1000), ("bias", 0)))
    params = {"enc": {"kernel": ENCODER}, "head": {"kernel": ENCODER, "bias": jnp.ones([2])}}
    optimizer, grads = make_optimizer(c, 2000, params), jax.tree.map(jnp.cos, params)
    update = jax.jit(optimizer.update)
    _, state = jax.lax.scan(
        lambda state, _: (optimizer.update(grads, state, params)[1], None),
        optimizer.init(params), length=1000,
    )[::-1]  # fmt: skip
    fresh = optax.adamw(0.01, weight_decay=0.1)
    moved, fresh_state = params["enc"], fresh.init(params["enc"])
    for _ in range(5):
        updates, state = update(grads, state, params)
        wanted, fresh_state = fresh.update(grads["enc"], fresh_state, moved)
        np.testing.assert_allclose(updates["enc"]["kernel"], wanted["kernel"], rtol=1e-5)
        moved = optax.apply_updates(moved, wanted)
        params = optax.apply_updates(params, updates)


def test_what_never_trains_has_no_moments():
    state = make_optimizer(options(freeze=(("^encoder", 0),)), 10, PARAMS).init(PARAMS)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert shapes.count((3, 2)) == 2 and shapes.count((2, 3)) == 0


def test_statistics_are_held_as_long_as_their_parameters():
    c = options(freeze=(("^encoder/bn1", 0), ("^encoder", 3), ("^head/bias$", 0)))
    old = {
        "encoder": {"bn1": {"mean": jnp.zeros(2)}, "bn2": {"mean": jnp.zeros(2)}},
        "head": {"bn": {"var": jnp.zeros(2)}},
        "count": jnp.zeros([], jnp.int32),
        "encoder_key": jax.random.key(0),
    }
    new = jax.tree.map(lambda x: x + 1, {k: old[k] for k in ("encoder", "head", "count")})
    new["encoder_key"] = jax.random.key(1)
    for step, thawed in ((0, 0.0), (2, 0.0), (3, 1.0)):
        got = jax.jit(lambda step: frozen_statistics(c, old, new, step))(jnp.asarray(step))
        np.testing.assert_array_equal(got["encoder"]["bn1"]["mean"], 0.0)
        np.testing.assert_array_equal(got["encoder"]["bn2"]["mean"], thawed)
        np.testing.assert_array_equal(got["head"]["bn"]["var"], 1.0)
        assert got["count"] == 1 and got["encoder_key"] == new["encoder_key"]


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


def rates_of(c, params):
    """The learning rate of each parameter, by the update of gradients of 1."""
    optimizer = make_optimizer(c, 10, params)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    return jax.tree.map(lambda u: -u, updates)


def test_layer_decay_is_that_of_the_papers_formula():
    """BEiT: layer i of L learns at decay^(L - i), what is below at decay^(L + 1), above at 1."""
    stack = {"attention": {"kernel": jnp.ones([3, 2])}}
    params = {
        "encoder": {
            "transformer": {
                "layers": stack,
                "final_norm": {"scale": jnp.ones([2])},
                "input_norm": {"scale": jnp.ones([2])},
            },
            "conv": {"kernel": jnp.ones([2])},
        },
        "head": {"kernel": jnp.ones([2])},
    }
    c = options(name="sgd", momentum=0.0, learning_rate=1.0, layer_decay=0.5)
    rates = rates_of(c, params)
    transformer = rates["encoder"]["transformer"]
    wanted = np.asarray([0.125, 0.25, 0.5])
    np.testing.assert_allclose(
        transformer["layers"]["attention"]["kernel"], np.repeat(wanted, 2).reshape(3, 2)
    )
    np.testing.assert_allclose(transformer["final_norm"]["scale"], 1.0)
    np.testing.assert_allclose(transformer["input_norm"]["scale"], 0.0625)
    np.testing.assert_allclose(rates["encoder"]["conv"]["kernel"], 0.0625)
    np.testing.assert_allclose(rates["head"]["kernel"], 1.0)
    params["encoder"]["transformer"]["layers"] = [{"kernel": jnp.ones([2])} for _ in range(12)]
    layers = rates_of(c, params)["encoder"]["transformer"]["layers"]
    np.testing.assert_allclose([x["kernel"][0] for x in layers], 0.5 ** np.arange(12, 0, -1))
    with pytest.raises(UserError, match="layer_decay is 0.5.*no layers of a Transformer"):
        make_optimizer(c, 10, {"head": params["head"]})


def test_the_learning_rate_follows_the_progress_that_is_given():
    c = options(
        name="sgd",
        momentum=0.0,
        learning_rate=1.0,
        schedule="linear",
        warmup_steps=4,
        final_fraction=0.0,
        schedule_steps=8,
    )
    params = {"w": jnp.ones([1])}
    optimizer = make_optimizer(c, 1000, params)
    state = optimizer.init(params)
    rates = [
        -float(optimizer.update(params, state, params, progress=p)[0]["w"][0])
        for p in (0.0, 0.5, 3.0, 4.0, 6.0, 8.0, 9.0)
    ]
    np.testing.assert_allclose(rates, [0.25, 0.375, 1.0, 1.0, 0.5, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="adam"), "optimizer.name is 'adam'; did you mean 'adamw'"),
        (dict(schedule="step"), "optimizer.schedule is 'step': choose one of cosine, linear"),
        (dict(learning_rate=float("inf")), "optimizer.learning_rate is inf: it must be a finite"),
        (dict(weight_decay=-0.1), "optimizer.weight_decay is -0.1: .* not negative"),
        (dict(ema_decay=1.5), "optimizer.ema_decay is 1.5: it must lie between 0 and 1"),
        (dict(beta2=1.0), "optimizer.beta2 is 1.0: it must be at least 0 and below 1"),
        (
            dict(schedule="exponential", final_fraction=0.0),
            "optimizer.final_fraction is 0.0: an exponential schedule needs one above 0",
        ),
        (dict(accumulation=0), "optimizer.accumulation is 0: it must be positive"),
        (dict(freeze=(("(", 0),)), r"optimizer.freeze has \('\(', 0\): give pairs of a pattern"),
        (dict(freeze=("encoder",)), "optimizer.freeze has 'encoder': .* a step"),
        (dict(multipliers=(("x", -1.0),)), "optimizer.multipliers has .* a factor"),
    ],
)
def test_options_that_do_not_fit_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        Options(**changes)
