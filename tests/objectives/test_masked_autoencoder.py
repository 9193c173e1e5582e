"""The masked autoencoder against transformers' ViTMAE with the same weights, and NumPy."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.masking import keep_best, kept_counts
from sacjax.layers.positional import sincos_grid
from sacjax.models.base import Tokens
from sacjax.views import View

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SIZE, PATCH, WIDTH, DECODER = 16, 4, 16, 8


def config_of(**options):
    config = config_lib.default(pretrain=config_lib.stage())
    s = config.unlock().pretrain
    s.data.update(source="synthetic", examples=120, sample_rate=8000, seconds=0.13)
    s.frontend.update(n_fft=256, hop_length=64, n_mels=SIZE)
    s.model.name, s.objective.name = "spectrogram_transformer", "masked_autoencoder"
    s.model.encoder = dict(
        width=WIDTH, depth=2, heads=2, mlp_width=32, patch_frames=PATCH, patch_bands=PATCH
    )
    s.objective.options = dict(decoder_width=DECODER, decoder_heads=2) | options
    s.train.update(batch_size=8, steps=4)
    return config_lib.check(config)


@pytest.fixture(scope="module")
def objective():
    return objectives.build(config_of().pretrain)


@pytest.fixture(scope="module")
def model(objective):
    return objective.build(nnx.Rngs(0))


def test_an_exact_share_of_each_clip_is_kept_and_padding_never():
    lengths = np.array([16, 11, 2, 1, 0])
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=[5, 16]).astype(np.float32)
    kept = jax.tree.map(np.asarray, keep_best(jnp.asarray(scores), jnp.asarray(lengths), 0.25))
    assert kept_counts(16, 0.25)[lengths].tolist() == [4, 2, 1, 1, 0]
    assert kept_counts(512, 1 - 0.8)[512] == 102  # Audio-MAE's and EAT's
    for row, (length, count) in enumerate(zip(lengths, [4, 2, 1, 1, 0], strict=True)):
        wanted = np.argsort(-scores[row, :length])[:count]
        np.testing.assert_array_equal(kept.keep[row], [*wanted, *[16] * (4 - count)])
        for token in range(16):
            place = wanted.tolist().index(token) if token in wanted else 4
            assert kept.slots[row, token] == place


def put(variable, *values):
    """Sets one of our variables; several values are stacked as layers."""
    value = np.stack(values) if len(values) > 1 else values[0]
    assert variable.shape == value.shape
    variable[...] = jnp.asarray(value)


def copy_stack(ours, theirs, name, final):
    """Copies a Transformer of transformers into ours."""
    get = lambda key: theirs[key].numpy()
    layer = lambda k, part: get(f"{name}.{k}.{part}")
    depth, rest = ours.depth, ours.layers
    for their, own in (
        ("attention.q_proj", rest.attention.query),
        ("attention.k_proj", rest.attention.key),
        ("attention.v_proj", rest.attention.value),
        ("attention.o_proj", rest.attention.out),
        ("mlp.fc1", rest.mlp_in),
        ("mlp.fc2", rest.mlp_out),
    ):
        put(own.kernel, *(layer(k, f"{their}.weight").T for k in range(depth)))
        put(own.bias, *(layer(k, f"{their}.bias") for k in range(depth)))
    for their, own in (
        ("layernorm_before", rest.attention_norm),
        ("layernorm_after", rest.mlp_norm),
    ):
        put(own.scale, *(layer(k, f"{their}.weight") for k in range(depth)))
        put(own.bias, *(layer(k, f"{their}.bias") for k in range(depth)))
    put(ours.final_norm.scale, get(f"{final}.weight"))
    put(ours.final_norm.bias, get(f"{final}.bias"))


def copy_linear(ours, theirs, name):
    put(ours.kernel, theirs[f"{name}.weight"].numpy().reshape(ours.kernel.shape[1], -1).T)
    put(ours.bias, theirs[f"{name}.bias"].numpy())


def vit_mae(model):
    """Returns a random ViTMAE whose weights ours has got too."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        image_size=SIZE,
        patch_size=PATCH,
        num_channels=1,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        layer_norm_eps=1e-6,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=4 * DECODER,
        norm_pix_loss=True,
        mask_ratio=0.75,
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    theirs.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    theirs.vit.embeddings.initialize_weights()  # their fixed positions
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "position_embeddings" not in name:
                value.add_(0.2 * torch.randn_like(value))
        grid = sincos_grid(4, 4, DECODER).reshape(1, 16, DECODER)
        positions = np.concatenate([np.zeros([1, 1, DECODER]), grid], 1)
        theirs.decoder.decoder_pos_embed.copy_(torch.tensor(positions))
    found = theirs.vit.embeddings.position_embeddings[0, 1:].numpy(force=True)
    np.testing.assert_allclose(sincos_grid(4, 4, WIDTH).reshape(16, WIDTH), found, atol=1e-6)
    values = theirs.state_dict()
    copy_linear(model.encoder.embed, values, "vit.embeddings.patch_embeddings.projection")
    put(model.encoder.class_embedding, values["vit.embeddings.cls_token"][0].numpy())
    copy_stack(model.encoder.transformer, values, "vit.layers", "vit.layernorm")
    copy_linear(model.decoder.embed, values, "decoder.decoder_embed")
    put(model.decoder.mask_token, values["decoder.mask_token"][0, 0].numpy())
    copy_stack(model.decoder.transformer, values, "decoder.decoder_layers", "decoder.decoder_norm")
    copy_linear(model.decoder.predict, values, "decoder.decoder_pred")
    return theirs


def test_masks_predictions_and_loss_are_those_of_vit_mae(objective):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    model = objective.build(nnx.Rngs(0))
    theirs = vit_mae(model)
    rng = np.random.default_rng(0)
    image = rng.standard_normal([3, SIZE, SIZE]).astype(np.float32)  # time, then bands
    noise = rng.uniform(size=[3, 16]).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor(image[:, None]), noise=torch.tensor(noise))

    def run(model, image):
        tokens = model.encoder.tokens(image, jnp.full(3, SIZE))
        kept = objective.draw(jnp.asarray(noise), tokens.lengths)
        encoded = model.encoder.encode(tokens, keep=kept.keep)
        pixels = model.decoder(encoded, kept.slots, tokens.lengths)
        return kept, pixels, objective.loss_of(model, tokens, kept, Context())

    kept, pixels, loss = quick(model, run)(jnp.asarray(image))
    np.testing.assert_array_equal(kept.slots >= 4, wanted.mask.numpy() > 0)
    np.testing.assert_allclose(pixels, wanted.logits.numpy(), atol=1e-4)
    assert loss.count == 3 * 12
    np.testing.assert_allclose(loss.total / loss.count, wanted.loss.numpy(), rtol=1e-5)


def test_padding_changes_no_loss_and_rows_that_do_not_count_have_none(objective, model):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal([3, SIZE, SIZE]), jnp.float32)
    run = quick(model, lambda m, b: objective.loss(m, b, Context()))

    def batch(x, lengths, mask):
        view = View(x, jnp.asarray(lengths))
        return {"views": (view,), "mask": jnp.asarray(mask), "index": jnp.asarray([7, 8, 9])}

    both = run(batch(x, [16, 9, 16], [1.0, 1.0, 0.0]))
    garbage = run(batch(x.at[1, 9:].add(9).at[2].add(9), [16, 9, 16], [1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(both.total, garbage.total)
    alone = [run(batch(x, [16, 9, 16], mask)) for mask in ([1.0, 0, 0], [0, 1.0, 0])]
    np.testing.assert_allclose(both.total, sum(one.total for one in alone), rtol=1e-5)
    assert [float(one.count) for one in alone] == [12, 6]  # of 16 and 8 patches a quarter is kept


def test_the_loss_counts_removed_patches_alone(objective, model):
    """The mean patch's loss, written out; a removed patch is not heard by the encoder."""
    rng = np.random.default_rng(2)
    patches = rng.normal(2, 3, [2, 16, 16]).astype(np.float32)
    tokens = Tokens(jnp.asarray(patches), jnp.asarray([16, 16]))
    kept = keep_best(jnp.asarray(rng.uniform(size=[2, 16]), jnp.float32), tokens.lengths, 0.25)
    loss = quick(model, lambda m, *args: objective.loss_of(m, *args, Context()))(tokens, kept)
    centred = patches - patches.mean(-1, keepdims=True)
    targets = centred / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    gone = targets[np.asarray(kept.slots) == 4]
    total, count = loss.metrics["mean_patch_loss"]
    np.testing.assert_allclose(total / count, ((gone - gone.mean(0)) ** 2).mean(), rtol=1e-5)
    values = objective.summarize(loss.metrics)
    np.testing.assert_allclose(values["relative_loss"], loss.total / total, rtol=1e-5)
    assert values["mask_share"] == 0.75 and "mean patch" in objective.describe(values)


def test_a_flat_loss_is_told(objective):
    flat = dict(loss=0.94, mean_patch_loss=0.94, relative_loss=1.0)
    assert "nothing is learned" in objective.health(flat)
    assert "learning_rate" in objective.verdict(flat)
    learned = flat | dict(relative_loss=0.9)
    assert objective.health(learned) == objective.verdict(learned) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mask_ratio=1.0), "objective.options.mask_ratio is 1.0"),
        (dict(decoder_width=30), "decoder_width is 30: 4 and the 2 heads must divide it"),
        (dict(decoder_depth=0), "objective.options.decoder_depth is 0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        config_of(**options)


def test_another_encoder_or_a_crop_of_one_patch_is_one_line():
    config = config_of()
    config.pretrain.model.name = "small_cnn"
    config.pretrain.model.encoder = {}
    with pytest.raises(UserError, match="needs model.name=spectrogram_transformer, not small_cnn"):
        config_lib.check(config)
    config = config_of()
    with config.pretrain.model.unlocked():
        config.pretrain.model.encoder.patch_frames = 17
        config.pretrain.model.encoder.patch_bands = None
    with pytest.raises(UserError, match="gives one patch of 17 frames and 16 bands"):
        config_lib.check(config)
