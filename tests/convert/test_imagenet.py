"""ImageNet's weights: PyTorch's ResNet and, where it is installed, timm's own networks."""

import json
from types import SimpleNamespace

import jax
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
from sacjax import inference, init_from, objectives
from sacjax.convert import huggingface
from sacjax.convert.imagenet import ResNetFamily, VGGFamily
from sacjax.errors import UserError
from sacjax.models import ENCODERS
from sacjax.models.pictures import IMAGENET_MEAN, IMAGENET_STD
from sacjax.train import sharding
from sacjax.train.trainer import make_trainer

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


TIMM = ["resnet18", "resnet50", "vgg11_bn", "convnext_tiny", "efficientnet_b0", "inception_v3"]


@pytest.mark.parametrize("name", ["resnet34", "resnet101"])
def test_deeper_resnets_have_timms_tensors(name):
    """They are of the blocks of the others."""
    timm, family = import_timm(), ResNetFamily()
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=3).state_dict()
    options = family.encoder_options(dict(model_type=name), {})
    encoder = nnx.eval_shape(lambda: ENCODERS[family.encoder](**options, rngs=nnx.Rngs(0)))
    ours = dict(nnx.to_flat_state(nnx.state(encoder)))
    found = {
        entry.theirs: (entry, ours[entry.ours].get_value().shape)
        for entry in family.entries(encoder, name)
    }
    assert set(found) == {key for key in theirs if not family.leaves_out(key)}
    for key, (entry, shape) in found.items():
        assert entry.load(np.empty(theirs[key].shape, np.float32)).shape == shape, key


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
    size = (100, 80) if name == "inception_v3" else (72, 40)
    loaded, x = huggingface.load_huggingface(source), spectrogram(*size)
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
    encoder = ENCODERS["vgg11"](width=8, in_channels=3, rngs=nnx.Rngs(0))  # the fewest layers
    given = flat(encoder)
    tensors = {
        entry.theirs: torch.tensor(given["/".join(map(str, entry.ours))].T.copy())
        for entry in VGGFamily().entries(encoder, "vgg11_bn")
    }
    network = SimpleNamespace(state_dict=lambda: tensors)
    source = save(network, tmp_path / "source", "vgg11_bn")
    base = [
        "data.source=synthetic",
        "data.seconds=1.0",
        f"init_from=hf:{source}",
        "model.encoder.width=8",
        "frontend.n_mels=32",
        "train.batch_size=2",
        "train.steps=2",
        "optimizer.freeze=(('^encoder/', 1),)",
        "optimizer.warmup_fraction=0.0",
        "optimizer.weight_decay=0.0",
    ]
    spec = f"{ROOT}/configs/imagenet/finetune.py:encoder=vgg11"
    c = init_from.resolve(config_lib.load(spec, [f"--config.finetune.{x}" for x in base]))
    stage = c.finetune
    assert stage.model.hidden == 500 and stage.model.dropout == 0.5
    objective = objectives.build(stage, ("a", "b"), np.ones(2))
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])
    trainer = make_trainer(objective, stage, mesh, 2, 0)
    state = trainer.init(init_from.pretrained_of(stage, c, tmp_path), {})
    noise = 3000 * np.random.default_rng(0).standard_normal([2, 22050])
    rows = np.arange(2, dtype=np.int32)
    batch = dict(
        audio=noise.astype(np.int16),
        length=np.full(2, 22050, np.int32),
        label=rows,
        index=rows,
        mask=np.ones(2, np.float32),
    )
    for _ in range(2):
        state = trainer.step(state, sharding.put_batch(batch, mesh))
    params = jax.device_get(state.params)
    assert params["hidden"]["kernel"].shape == (64, 500)

    def moved(*path):
        value = params["encoder"]
        for key in path:
            value = value[key]
        return np.abs(value - given["/".join(map(str, path))]).max()

    # Adam's first step is the rate, and this its second. The trunk has only the second, of which
    # the rate is half; both together would come to more than 1e-4.
    late, early = moved("conv", 7, "kernel"), moved("conv", 0, "kernel")
    assert 1e-5 < late < 9e-5 and 0 < early < 1e-8 + 4e-9, (late, early)
