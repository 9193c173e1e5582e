"""What objectives over masked tokens share, against PyTorch and NumPy written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stages import batch_of, stage_of, waves

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.models.base import Tokens
from sacjax.objectives.masked import (
    MaskedCodes,
    MaskOptions,
    check_tokens,
    cross_entropy,
    example_keys_of,
    feature_penalty,
)


def test_cross_entropy_is_pytorchs_over_the_tokens_that_count():
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 2, 7)).astype(np.float32)
    targets, used = rng.integers(0, 7, (3, 5, 2)), rng.uniform(size=(3, 5)) < 0.6
    total, sums = cross_entropy(*map(jnp.asarray, (logits, targets, used)))
    chosen = torch.tensor(logits[used]).flatten(0, 1), torch.tensor(targets[used]).flatten()
    wanted = torch.nn.functional.cross_entropy(*chosen)
    np.testing.assert_allclose(total / used.sum(), wanted, rtol=1e-5)
    hits, count = sums["masked_accuracy"]
    assert count == used.sum() and hits == (logits.argmax(-1) == targets)[used].sum() / 2
    for book in range(2):
        counted = np.bincount(targets[used][:, book], minlength=7)
        np.testing.assert_array_equal(sums["codes"][0][book], counted)


def summarized(codes, told):
    """Returns the summary of two codebooks' counts."""
    count = np.float32(np.sum(codes[0]))
    sums = dict(codes=(np.float32(codes), count), told=(np.float32(told), count))
    sums["masked_accuracy"] = (np.float32(count / 4), count)
    return MaskedCodes(stage_of("best_rq")).summarize(sums)


def test_perplexity_and_the_commonest_code():
    values = summarized([[4, 4, 0, 0], [8, 0, 0, 0]], [[2, 2, 2, 2], [2, 2, 2, 2]])
    assert values["target_perplexity"] == pytest.approx((2 + 1) / 2)
    assert values["prediction_perplexity"] == pytest.approx(4)
    assert values["chance_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert values["codes_used"] == 3 / 8


def test_one_code_for_all_is_told_and_so_is_an_accuracy_of_chance():
    objective = MaskedCodes(stage_of("best_rq"))
    same = summarized([[8, 0, 0, 0]] * 2, [[8, 0, 0, 0]] * 2)
    assert objective.health(same).startswith("perplexity of the targets 1.00: one code")
    assert "commonest code" in objective.verdict(same)
    good = summarized([[2, 2, 2, 2]] * 2, [[8, 0, 0, 0]] * 2)
    assert not objective.health(good) and objective.verdict(good)
    assert not objective.verdict(good | {"masked_accuracy": 0.3})


def test_examples_draw_by_row_in_training_and_else_by_their_place_in_the_data():
    batch = batch_of(waves([1600] * 4))
    moved = batch | {"index": batch["index"][::-1]}
    data = lambda batch, ctx: np.asarray(jax.random.key_data(example_keys_of(batch, ctx)))
    train = Context(jax.random.key(1))
    np.testing.assert_array_equal(data(batch, train), data(moved, train))
    np.testing.assert_array_equal(data(batch, Context()), data(moved, Context())[::-1])


def test_the_penalty_is_the_mean_square_of_valid_features():
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    penalty, _ = feature_penalty(Tokens(jnp.asarray(x), jnp.asarray([4, 1])), jnp.asarray(10.0))
    assert penalty / 10 == pytest.approx((x[0] ** 2).sum() / 15 + (x[1, 0] ** 2).sum() / 15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mask_span=0), "objective.options.mask_span is 0"),
        (dict(mask_probability=0.0, mask_minimum=0), "nothing would be masked"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MaskOptions(**options)


def test_what_has_no_tokens_or_no_room_is_refused():
    stage = stage_of("best_rq")
    with pytest.raises(UserError, match="gives 24 frames a clip: .*mask_span=24"):
        check_tokens(stage, MaskOptions(mask_span=24))
    stage.model.name = "audionet"
    with pytest.raises(UserError, match="best_rq needs model.name=.*wav2vec2.*, not 'audionet'"):
        check_tokens(stage, MaskOptions())
