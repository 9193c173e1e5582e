"""SpectrogramResNet against a plain PyTorch ResNet with torchvision's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws
from pictures import torch_resnet

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.pooling import max_pool
from sacjax.models.classifier import Classifier
from sacjax.models.pictures import as_picture
from sacjax.models.resnet import SpectrogramResNet


def ours(name):
    """torchvision's name → the path of our variable."""
    for old, new in (("downsample.0", "downsample.conv"), ("downsample.1", "downsample.bn")):
        name = name.replace(old, new)
    owner, leaf = name.rsplit(".", 1)
    norm = owner.rsplit(".", 1)[-1].startswith("bn")
    leaf = {
        "weight": "scale" if norm else "kernel",
        "running_mean": "mean",
        "running_var": "var",
    }.get(leaf, leaf)
    return tuple(int(part) if part.isdigit() else part for part in (*owner.split("."), leaf))


def load(model, state):
    """Copies a torch state_dict; every variable must be given."""
    state = {
        ours(name): value.numpy() for name, value in state.items() if "num_batches" not in name
    }
    variables = dict(nnx.to_flat_state(nnx.state(model)))
    assert state.keys() == variables.keys()
    for path, value in state.items():
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        assert variables[path].shape == value.shape
        variables[path][...] = jnp.asarray(value)


@pytest.mark.parametrize("depth, channels", [(18, 1), (50, 3)])
def test_torchvisions_weights_give_the_same_features(depth, channels, quick):
    reference = torch_resnet(depth, 8, channels).eval()
    import torch

    model = SpectrogramResNet(depth=depth, width=8, in_channels=channels, rngs=nnx.Rngs(0))
    load(model, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 75, 40)).astype(np.float32)
    with torch.no_grad():
        want = (
            reference(torch.tensor(x)[:, None].repeat(1, channels, 1, 1))
            .mean(3)
            .numpy()
            .transpose(0, 2, 1)
        )
    frames, lengths, _ = quick(model, lambda model, x: model(x, jnp.array([75, 75])))(
        jnp.asarray(x)
    )
    assert lengths.tolist() == [want.shape[1]] * 2
    np.testing.assert_allclose(frames, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_a_training_step_has_torchs_gradients_and_running_mean():
    reference = torch_resnet(18, 8, 1).train()
    import torch

    model = SpectrogramResNet(depth=18, width=8, rngs=nnx.Rngs(0))
    load(model, reference.state_dict())
    ctx = Context(jax.random.key(0))
    x = np.random.default_rng(0).standard_normal((4, 75, 64)).astype(np.float32)
    (reference(torch.tensor(x)[:, None]) ** 2).mean().backward()

    def full(
        model,
    ):  # before the mean over frequency, so that every position has a gradient of its own
        x_, n = model.conv1(jnp.asarray(x)[..., None], jnp.array([75] * 4))
        x_, n = max_pool(nnx.relu(model.bn1(x_, n, ctx)), n, 3, 2, 1)
        for block in (*model.layer1, *model.layer2, *model.layer3, *model.layer4):
            x_, n = block(x_, n, ctx)
        return (x_**2).mean()

    grads = dict(nnx.to_flat_state(nnx.jit(nnx.grad(full))(model)))
    for name, parameter in reference.named_parameters():
        want = parameter.grad.numpy()
        want = want.transpose(2, 3, 1, 0) if want.ndim == 4 else want
        np.testing.assert_allclose(
            grads[ours(name)][...],
            want,
            rtol=0,
            atol=2e-3 * np.abs(want).max() + 1e-6,
            err_msg=name,
        )
    np.testing.assert_allclose(
        model.layer4[1].bn2.mean[...], reference.layer4[1].bn2.running_mean.numpy(), atol=1e-4
    )


@pytest.mark.parametrize(
    "depth, parameters", [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)]
)
def test_published_sizes(depth, parameters):
    def make():
        encoder = SpectrogramResNet(depth=depth, in_channels=3, rngs=nnx.Rngs(0))
        return Classifier(encoder, pooling="mean", dropout=0.0, num_classes=1000, rngs=nnx.Rngs(0))

    leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(stem="small"),
        dict(depth=50, in_channels=3, imagenet_norm=True),
        dict(stem_kernel=4, stem_stride=3, stem_pool=False),
    ],
)
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(options, check_padding):
    model = SpectrogramResNet(**dict(width=4) | options, rngs=nnx.Rngs(0))
    check_padding(model, size=(70,), lengths=(70, 37), features=(20,))


def test_gradients_are_finite(check_gradients):
    model = SpectrogramResNet(width=4, stochastic_depth=0.3, zero_init=False, rngs=nnx.Rngs(0))
    check_gradients(model, size=(40,), lengths=(40, 1, 0), features=(20,))


def test_bfloat16(check_bfloat16):
    check_bfloat16(
        lambda dtype: SpectrogramResNet(width=8, dtype=dtype, rngs=nnx.Rngs(0)),
        size=(64,),
        features=(32,),
    )


def test_zero_init_starts_every_block_as_its_shortcut():
    on, off = (SpectrogramResNet(width=4, zero_init=z, rngs=nnx.Rngs(0)) for z in (True, False))
    assert not np.any(on.layer3[1].bn2.scale[...]) and np.all(off.layer3[1].bn2.scale[...] == 1)
    assert np.all(on.layer3[1].bn1.scale[...] == 1)


def test_imagenet_norm_makes_a_grey_picture_normalized_as_imagenets():
    x = np.random.default_rng(0).standard_normal((2, 500, 40, 1)).astype(np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    picture = np.asarray(as_picture(jnp.repeat(jnp.asarray(x), 3, -1))) * std + mean
    np.testing.assert_allclose(picture, np.repeat(picture[..., :1], 3, -1), atol=1e-5)
    assert picture.mean() == pytest.approx(
        mean.mean(), abs=0.01
    ) and picture.std() == pytest.approx(std.mean(), abs=0.01)


def test_blocks_are_dropped_by_keys_of_their_own():
    make = lambda: SpectrogramResNet(width=4, rngs=nnx.Rngs(0))
    call = lambda ctx: make()(jnp.zeros([1, 40, 20]), jnp.array([40]), ctx).frames
    assert count_draws(call) == 2 + 2 + 2 + 2


@pytest.mark.parametrize(
    "options",
    [
        dict(depth=20),
        dict(width=0),
        dict(in_channels=2),
        dict(stem="big"),
        dict(stem_kernel=0),
        dict(stem_stride=0),
        dict(stochastic_depth=1.0),
        dict(imagenet_norm=True),
    ],
)
def test_wrong_options_are_told(options):
    with pytest.raises(UserError, match=f"model.encoder.{next(iter(options))}"):
        SpectrogramResNet(**options, rngs=nnx.Rngs(0))
