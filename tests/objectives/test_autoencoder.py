"""The autoencoder against a PyTorch twin on the same weights; what it refuses; when it is sick."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives.autoencoder import stride_of
from sacjax.views import View

torch = pytest.importorskip("torch", reason="needs the extra `parity`")

BANDS, FRAMES = 6, 8
ENCODER = dict(frames=FRAMES, widths=(20, 12, 5), channels=(4, 6), bottleneck=5)


def stage_of(name="autoencoder", encoder=None, **options):
    stage = config_lib.stage()
    stage.data.update(source="synthetic", sample_rate=8000, seconds=0.25)
    stage.frontend.update(n_fft=256, hop_length=64, n_mels=BANDS)
    stage.model.name, stage.objective.name = name, "autoencoder"
    stage.model.encoder = ENCODER if encoder is None else encoder
    stage.objective.options = options
    stage.train.batch_size = 4
    return stage


def batch_of(lengths=(8, 8, 5, 8), mask=(1, 1, 1, 0), frames=FRAMES):
    rng = np.random.default_rng(0)
    x = 20 * rng.standard_normal([4, frames, BANDS]).astype(np.float32) - 40
    x = np.where(np.arange(frames)[:, None] < np.array(lengths)[:, None, None], x, 0)
    view = View(jnp.asarray(x), jnp.asarray(lengths, jnp.int32))
    return {"views": (view,), "clean": view, "mask": jnp.asarray(mask, jnp.float32)}


def twin(model, improved):
    """Returns a PyTorch network with the model's weights."""
    tensor = lambda value: torch.nn.Parameter(torch.tensor(np.asarray(value)))
    modules = []
    for part in (model.encoder, model.decoder):
        for layer in part.layers:
            modules.append((layer.inner, layer.norm))
    modules.append((model.decoder.last, None))
    stack = []
    for k, (linear, norm) in enumerate(modules):
        made = torch.nn.Linear(*linear.kernel.shape)
        made.weight, made.bias = tensor(linear.kernel[...].T), tensor(linear.bias[...])
        stack.append(made)
        if norm is not None:
            stack.append(torch.nn.BatchNorm1d(linear.kernel.shape[1]))
        if k < len(modules) - 1:
            stack.append(torch.nn.LeakyReLU(0.1) if improved else torch.nn.ReLU())
    return torch.nn.Sequential(*stack)


@pytest.mark.parametrize("variant", ["baseline", "improved"])
def test_forward_loss_and_one_step_as_pytorch_does_them(variant):
    """All clips count, for PyTorch's batch norm knows no padding; one is filled up with zeros."""
    objective = objectives.build(stage_of(encoder=ENCODER | dict(variant=variant)))
    model, batch = objective.build(nnx.Rngs(0)), batch_of(mask=(1, 1, 1, 1))
    network = twin(model, variant == "improved")
    x, ctx = batch["views"][0].inputs, Context(jax.random.key(0))
    inside = torch.tensor(np.arange(FRAMES) < np.array([8, 8, 5, 8])[:, None])[..., None]

    def step(model):
        def loss(model):
            found = objective.loss(model, batch, ctx)
            return found.total / found.count

        value, grads = nnx.value_and_grad(loss)(model)
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, nnx.state(model, nnx.Param), grads)
        nnx.update(model, params)
        return value, objective.loss(model, batch, Context())

    value, after = nnx.jit(step)(model)

    flat = torch.tensor(np.asarray(x)).reshape(4, -1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    decoded = network(flat).reshape(4, FRAMES, BANDS)
    its_loss = ((decoded - flat.reshape(decoded.shape)) ** 2)[inside.expand_as(decoded)].mean()
    its_loss.backward()
    optimizer.step()
    network.eval()
    again = network(flat).reshape(4, FRAMES, BANDS)
    its_after = ((again - flat.reshape(again.shape)) ** 2)[inside.expand_as(again)].mean()
    np.testing.assert_allclose(value, its_loss.item(), rtol=1e-5)
    tolerance = 1e-2 if variant == "improved" else 1e-4  # PyTorch's running variance is unbiased
    np.testing.assert_allclose(after.total / after.count, its_after.item(), rtol=tolerance)
    weights = [p for name, p in network.named_parameters() if p.ndim == 2]
    ours = [layer.inner for part in (model.encoder, model.decoder) for layer in part.layers]
    for weight, linear in zip(weights, [*ours, model.decoder.last], strict=True):
        want = weight.detach().numpy().T
        np.testing.assert_allclose(linear.kernel[...], want, rtol=1e-3, atol=1e-4)


def worked(objective, model, batch, target):
    """Returns (mean squared error, explained share) over the valid cells, written out."""
    view = batch["views"][0]
    output = model.encoder(view.inputs, view.lengths, Context())
    decoded = np.asarray(model.decoder(output, Context())[0])
    cells = [
        (decoded[i, :n], np.asarray(target)[i, :n])
        for i, n in enumerate(np.asarray(view.lengths))
        if batch["mask"][i]
    ]
    found, wanted = (np.concatenate(part) for part in zip(*cells, strict=True))
    error = ((found - wanted) ** 2).mean()
    return error, 1 - error / wanted.var(0).mean()


@pytest.mark.parametrize(
    "name, encoder, frames",
    [
        ("autoencoder", ENCODER | dict(kind="conv"), 10),
        ("autoencoder", ENCODER, 13),  # two blocks
        ("small_cnn", dict(channels=(3, 3), hidden=8), 12),
    ],
)
def test_only_valid_cells_of_clips_that_count_are_compared(name, encoder, frames):
    objective = objectives.build(stage_of(name, encoder))
    model = objective.build(nnx.Rngs(0))
    batch = batch_of((frames, frames, 8, frames), frames=frames)
    loss = objective.loss(model, batch, Context())
    assert loss.count == (2 * frames + 8) * BANDS
    values = objective.summarize(loss.metrics)
    error, explained = worked(objective, model, batch, batch["clean"].inputs)
    np.testing.assert_allclose(values["loss"], error, rtol=1e-4)
    np.testing.assert_allclose(values["explained"], explained, rtol=1e-3, atol=1e-4)
    beyond = batch["views"][0].inputs.at[2, 8:].set(1e3).at[3].set(-1e3)
    noisy = View(beyond, batch["views"][0].lengths)
    again = objective.loss(model, batch | {"views": (noisy,), "clean": noisy}, Context())
    np.testing.assert_allclose(again.total, loss.total, rtol=1e-5)


def test_denoising_hears_the_changed_clip_and_wants_the_clean_one():
    objective = objectives.build(stage_of(target="clean"))
    model, batch = objective.build(nnx.Rngs(0)), batch_of()
    clean = batch["clean"].inputs + 7
    batch = batch | {"clean": View(clean, batch["clean"].lengths)}
    found = objective.summarize(objective.loss(model, batch, Context()).metrics)
    np.testing.assert_allclose(found["loss"], worked(objective, model, batch, clean)[0], rtol=1e-4)


def test_a_relu_after_the_last_layer_gives_no_negative_decibels():
    stage = stage_of(encoder=ENCODER | dict(variant="baseline"), activate_output=True)
    objective = objectives.build(stage)
    model, batch = objective.build(nnx.Rngs(0)), batch_of()
    plain, view = model.decoder, batch["views"][0]
    output = model.encoder(view.inputs, view.lengths, Context())
    want = np.maximum(plain(output, Context())[0], 0)
    np.testing.assert_array_equal(model.decode(output, Context())[0], want)


def test_noise_is_added_to_what_is_heard_in_training_alone():
    noisy, plain = (objectives.build(stage_of(noise=std)) for std in (5.0, 0.0))
    model, batch = plain.build(nnx.Rngs(0)), batch_of()
    loss = lambda objective, ctx: float(objective.loss(copy.deepcopy(model), batch, ctx).total)
    training = Context(jax.random.key(0))
    assert loss(noisy, Context()) == loss(plain, Context())
    assert loss(noisy, training) != loss(plain, training)


@pytest.mark.parametrize("stem, stride", [("small", 8), ("imagenet", 32)])
def test_a_frame_of_another_encoder_stands_for_as_many_frames_as_its_stride(stem, stride):
    assert stride_of(stage_of("spectrogram_resnet", dict(width=4, stem=stem))) == stride


def test_codes_that_are_all_alike_are_told():
    objective = objectives.build(stage_of(encoder=ENCODER | dict(variant="baseline")))
    model, batch = objective.build(nnx.Rngs(0)), batch_of()
    spread = lambda: objective.summarize(objective.loss(model, batch, Context()).metrics)
    healthy = spread()
    assert healthy["code_spread"] > 0.01 and not objective.health(healthy)
    last = model.encoder.layers[-1].inner
    last.kernel[...], last.bias[...] = 0 * last.kernel[...], 1 + 0 * last.bias[...]
    assert objective.health(spread()).startswith("code_spread is 0 of 1")
    assert objective.verdict({"explained": -0.1}) and not objective.verdict({"explained": 0.1})
    assert objective.options.collapse_patience == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(noise=-1.0), "objective.options.noise is -1.0"),
        (dict(target="noisy"), "objective.options.target is 'noisy'"),
        (dict(nois=1.0), "objective.options.nois: .*noise"),
        (dict(hidden=0), "objective.options.hidden is 0"),
        (dict(model="wav2vec2"), "model.name wav2vec2 hears waveforms"),
        (dict(crop=0.1, target="clean"), "target is 'clean', but augment.crop_seconds moves"),
        (dict(shift=1, target="clean"), "target is 'clean', but augment.waveform.0, shift, moves"),
    ],
)
def test_what_is_refused(change, message):
    options = {k: v for k, v in change.items() if k not in ("model", "crop", "shift")}
    config = config_lib.default(pretrain=stage_of(**options))
    config.pretrain.augment.crop_seconds = change.get("crop", 0.0)
    if "shift" in change:
        config.pretrain.augment.waveform = (dict(name="shift"),)
    if "model" in change:
        config.pretrain.model.name = change["model"]
        with config.pretrain.model.unlocked():
            config.pretrain.model.encoder = {}
    with pytest.raises(UserError, match=message):
        config_lib.check(config)


def test_patches_side_by_side_are_no_frames_to_decode():
    patches = dict(size="mini", width=16, depth=1, mlp_width=16, patch_frames=4, patch_bands=2)
    with pytest.raises(UserError, match="choose patches as high as the spectrogram"):
        stride_of(stage_of("spectrogram_transformer", patches))
