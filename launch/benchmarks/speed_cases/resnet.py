"""(h) A training step of a spectrogram ResNet-18, beside torch's."""

from collections.abc import Callable, Iterator
from typing import Any

from launch.benchmarks.speed_cases.case import CLASSES, Case, Run, Sizes, same_for
from launch.benchmarks.speed_cases.log_mel import torch_features
from launch.benchmarks.speed_cases.ours import Ours, resnet_config, shape_of
from launch.benchmarks.speed_cases.peers import need, peer_torch, peer_variants, torch_step


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case."""
    torch, device = peer_torch()
    transformers = need("transformers", "parity")
    ours = Ours(resnet_config(sizes), "supervised")
    audio, labels = ours.peer_batch()
    features = torch_features(ours.stage)
    widths = [sizes.width << k for k in range(4)]
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=sizes.width,
        hidden_sizes=widths,
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=CLASSES,
    )

    def make(prepare_model: Callable, layout: Any = torch.contiguous_format) -> Run:
        model = transformers.ResNetForImageClassification(config).to(device, memory_format=layout)
        run = prepare_model(model)

        def loss() -> Any:
            x = features(audio.to(device))[:, None].contiguous(memory_format=layout)
            return torch.nn.functional.cross_entropy(run(x).logits, labels.to(device))

        return torch_step(model, loss, ours.stage.optimizer.clip_norm)

    peers = peer_variants(make, "torch")
    peers["torch, channels last"] = make(lambda model: model, torch.channels_last)
    yield Case(
        f"ResNet-18 training step with SpecAugment, {shape_of(ours)}",
        ours.step,
        peers,
        same_for(peers, 1.0),
    )
