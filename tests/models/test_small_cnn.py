"""SmallCNN: sizes, padding, gradients."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.errors import UserError
from sacjax.models.small_cnn import SmallCNN


def make(**options):
    return SmallCNN(**dict(channels=(4, 8), hidden=16, num_features=18, rngs=nnx.Rngs(0)) | options)


@pytest.mark.parametrize("lengths", [(40, 23, 9, 1)])
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(lengths, check_padding):
    check_padding(make(), size=(40,), lengths=lengths, features=(18,))


def test_gradients_are_finite(check_gradients):
    check_gradients(make(), size=(40,), lengths=(40, 1, 0), features=(18,))


def test_bfloat16(check_bfloat16):
    check_bfloat16(lambda dtype: make(dtype=dtype), size=(40,), features=(18,))


@pytest.mark.parametrize("frames, bins", [(128, 128), (5, 3), (1, 1)])
def test_any_size_works(frames, bins, quick):
    run = quick(make(num_features=bins), lambda model, x, n: model(x, n))
    out = run(jnp.ones([1, frames, bins]), jnp.array([frames]))
    assert out.frames.shape == (1, max(frames // 4, 1), 16)


@pytest.mark.parametrize("options", [dict(channels=(4,)), dict(channels=(4, 0)), dict(hidden=0)])
def test_wrong_options_are_told(options):
    with pytest.raises(UserError, match="model.encoder"):
        make(**options)


def audio_ntt_2022(bands, channels, hidden):
    """The encoder of BYOL-A v2 in PyTorch, as the authors' models.py computes it."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            first, second = channels
            self.conv1 = nn.Conv2d(1, first, 3, padding=1)
            self.bn1 = nn.BatchNorm2d(first)
            self.conv2 = nn.Conv2d(first, second, 3, padding=1)
            self.bn2 = nn.BatchNorm2d(second)
            self.dense = nn.Linear(bands // 4 * second, hidden)
            self.dense2 = nn.Linear(hidden, hidden)

        def forward(self, x):  # [B, frames, bands]
            x = x[:, None].transpose(2, 3)
            for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
                x = nn.functional.max_pool2d(torch.relu(norm(conv(x))), 2)
            x = x.permute(0, 3, 2, 1).flatten(2)  # [B, frames, bands × channels]
            return torch.cat([x, torch.relu(self.dense2(torch.relu(self.dense(x))))], -1)

    return torch, Encoder().eval()


def test_byol_a_is_the_authors_network(quick, check_padding):
    torch, reference = audio_ntt_2022(16, (4, 8), 16)
    model = make(num_features=16, variant="byol_a")
    check_padding(model, size=(40,), lengths=(40, 23, 9, 1), features=(16,))
    state = dict(nnx.to_flat_state(nnx.state(model)))
    names = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}
    for name, value in reference.state_dict().items():
        layer, leaf = name.split(".")
        leaf = "scale" if name in ("bn1.weight", "bn2.weight") else names.get(leaf, leaf)
        if leaf != "num_batches_tracked":  # the given values are of check_padding's norms
            ours = np.asarray(state.pop((layer, leaf))[...])
            value.copy_(torch.tensor(ours.transpose(3, 2, 1, 0) if ours.ndim == 4 else ours.T))
    assert not state
    x = np.random.default_rng(0).standard_normal((2, 40, 16)).astype(np.float32)
    frames, *_ = quick(model, lambda model, x, n: model(x, n))(x, jnp.array([40, 40]))
    with torch.no_grad():
        want = reference(torch.tensor(x)).numpy()
    assert want.shape[-1] == model.features == 4 * 8 + 16
    np.testing.assert_allclose(frames, want, rtol=1e-4, atol=1e-5)
