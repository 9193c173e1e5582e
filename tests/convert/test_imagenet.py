"""ImageNet's weights: PyTorch's ResNet and, where it is installed, timm's own networks."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick
from pictures import randomized, torch_resnet
from processes import ROOT
from safetensors.numpy import save_file
from timm_alone import import_timm

from sacjax import config as config_lib
from sacjax import inference, stages
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.models.pictures import IMAGENET_MEAN, IMAGENET_STD

torch = pytest.importorskip("torch", reason="needs the extra `parity`")


def save(model, path, name, /, **changes):
    """Writes a torch model as timm does, a ResNet with a last layer."""
    path.mkdir(exist_ok=True)
    tensors = {key: value.numpy() for key, value in model.state_dict().items()}
    if name.startswith("resnet"):
        tensors = dict.fromkeys(("fc.weight", "fc.bias"), np.zeros([1], np.float32)) | tensors
    save_file(tensors, path / "model.safetensors")
    told = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    config = dict(architecture=name, num_classes=1000, pretrained_cfg=told) | changes
    (path / "config.json").write_text(json.dumps(config))
    return path


def spectrogram(frames, bands):
    return np.random.default_rng(0).standard_normal([2, frames, bands]).astype(np.float32)


def picture(x, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Returns what an ImageNet network sees of it, [B, 3, bands, frames]."""
    grey = x.transpose(0, 2, 1)[:, None] * np.mean(IMAGENET_STD) + np.mean(IMAGENET_MEAN)
    mean, std = (np.asarray(v)[:, None, None] for v in (mean, std))
    return torch.tensor(((grey - mean) / std).astype(np.float32))


def check(encoder, features, x):
    """Compares frames with torch's features [B, D, bands, frames], the mean over the bands."""
    frames, lengths, _ = quick(encoder, lambda model, x, n: model(x, n))(
        jnp.asarray(x), jnp.full([len(x)], x.shape[1])
    )
    wanted = features.mean(2).numpy().transpose(0, 2, 1)
    assert lengths.tolist() == [wanted.shape[1]] * 2 and wanted.shape[-1] == encoder.features
    np.testing.assert_allclose(frames, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("depth", [18, 50])
def test_a_resnet_sees_a_picture_of_which_time_is_the_width(depth, tmp_path):
    model = torch_resnet(depth, 8, 3).eval()
    source = save(model, tmp_path / "source", f"resnet{depth}")
    loaded = huggingface.load_huggingface(source, width=8)
    assert loaded.kind == "bare" and loaded.encoder_options["depth"] == depth
    x = spectrogram(75, 40)
    with torch.no_grad():
        check(loaded.model, model(picture(x)), x)


TIMM = ["resnet18", "resnet34", "resnet50", "resnet101", "vgg11_bn", "convnext_tiny"]
TIMM += ["efficientnet_b0", "inception_v3"]


@pytest.mark.parametrize("name", TIMM)
def test_features_are_timms(name, tmp_path):
    timm = import_timm()
    torch.manual_seed(0)
    model = randomized(timm.create_model(name, num_classes=3)).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith(("gamma", ".bias")):  # which start at next to nothing
                value.add_(0.1 * torch.randn_like(value))
    told = {key: model.pretrained_cfg[key] for key in ("mean", "std")}
    source = save(model, tmp_path / "source", name, pretrained_cfg=told)
    loaded, x = huggingface.load_huggingface(source), spectrogram(100, 80)
    with torch.no_grad():
        features = model.forward_features(picture(x, **told))
    check(loaded.model, features, x)


def test_one_channel_takes_the_sum_of_the_first_kernel(tmp_path):
    """What the sum gives of one channel, three like it give of the three."""
    model = torch_resnet(18, 8, 3).eval()
    source = save(model, tmp_path / "source", "resnet18")
    one = huggingface.load_huggingface(source, width=8, in_channels=1, imagenet_norm=False).model
    x = spectrogram(75, 40)
    with torch.no_grad():
        features = model(torch.tensor(x.transpose(0, 2, 1))[:, None].repeat(1, 3, 1, 1))
    assert one.conv1.kernel.shape[2] == 1
    check(one, features, x)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(architecture="resnet50d"), "model_type is 'resnet50d'; known are .*resnet50"),
        (dict(architecture="resnet34"), "missing: layer1.2.bn1.bias"),
        (dict(pretrained_cfg=dict(mean=(0.5, 0.5, 0.5))), "pretrained_cfg.mean is .*; only"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(changes, words, tmp_path):
    source = save(torch_resnet(18, 8, 3), tmp_path / "source", "resnet18", **changes)
    with pytest.raises(UserError, match=words):
        huggingface.load_huggingface(source, width=8)


def test_embeddings_come_straight_from_a_folder(tmp_path):
    source = save(torch_resnet(18, 64, 3).eval(), tmp_path / "source", "resnet18")
    found = inference.load(f"hf:{source}").embed(np.zeros(4000, np.float32), sample_rate=16000)
    assert found.shape == (1, 512) and np.isfinite(found).all() and np.ptp(found) > 0


def test_it_is_not_written(tmp_path):
    source = save(torch_resnet(18, 8, 3), tmp_path / "source", "resnet18")
    model = huggingface.load_huggingface(source, width=8).model
    with pytest.raises(UserError, match="SpectrogramResNet has no counterpart in transformers"):
        huggingface.save_huggingface(model, tmp_path / "out")


def flat(module):
    """Returns {name: values} of parameters and statistics."""
    return {
        "/".join(map(str, name)): np.asarray(value[...])
        for name, value in nnx.to_flat_state(nnx.state(module))
    }


def test_the_recipe_trains_the_head_alone_and_then_each_part_at_its_own_rate(tmp_path):
    source = save(torch_resnet(18, 8, 3), tmp_path / "source", "resnet18")
    given = flat(huggingface.load_huggingface(source, width=8).model)
    base = [
        "data.source=synthetic",
        "data.examples=100",
        "data.seconds=0.5",
        f"init_from=hf:{source}",
        "model.encoder.width=8",
        "frontend.n_mels=32",
        "train.batch_size=8",
        "train.steps=2",
        "optimizer.freeze=(('^encoder/', 1),)",
        "optimizer.warmup_fraction=0.0",
        "optimizer.weight_decay=0.0",
        "eval.checkpoint=last",
        "eval.batch_size=32",
        "eval.splits=('test',)",
    ]
    spec = str(ROOT / "configs/imagenet/finetune.py")
    c = config_lib.load(spec, [f"--config.finetune.{change}" for change in base])
    c.tensorboard = False
    assert c.finetune.model.hidden == 500 and c.finetune.model.dropout == 0.5
    results = stages.run(c, tmp_path / "run")
    assert "test/accuracy" in results["finetune"]
    found = flat(inference.load_trained(tmp_path / "run", "last").module)
    assert found["hidden/kernel"].shape == (64, 500)
    moved = {key: np.abs(found[f"encoder/{key}"] - value).max() for key, value in given.items()}
    # Adam's first step is the rate, and this its second. The trunk has only the second, of which
    # the rate is half; both together would come to more than 1e-4.
    late, early = moved["layer4/1/conv2/kernel"], moved["layer1/0/conv1/kernel"]
    assert 1e-5 < late < 9e-5 and 0 < early < 1e-8 + 4e-9, (late, early)
