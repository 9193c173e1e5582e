"""Networks on pictures in PyTorch, as references."""

import pytest

from sacjax.models.resnet import DEPTHS


def randomized(model):
    """Gives a torch model's batch norms statistics and weights that count, and returns it."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2),
            ):
                nn.init.uniform_(tensor, low, high)
    return model


def torch_resnet(depth, width, channels):
    """He et al. 2016 in PyTorch, written as torchvision's, without the head."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from torch import nn

    expansion = 1 if depth < 50 else 4

    class Block(nn.Module):
        def __init__(self, inputs, planes, stride):
            super().__init__()
            plan = [(3, stride), (3, 1)] if expansion == 1 else [(1, 1), (3, stride), (1, 1)]
            sizes = [inputs] + [planes] * (len(plan) - 1) + [planes * expansion]
            for k, (kernel, s) in enumerate(plan, 1):
                setattr(
                    self,
                    f"conv{k}",
                    nn.Conv2d(sizes[k - 1], sizes[k], kernel, s, kernel // 2, bias=False),
                )
                setattr(self, f"bn{k}", nn.BatchNorm2d(sizes[k]))
            self.count, self.downsample = len(plan), None
            if stride != 1 or inputs != sizes[-1]:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, sizes[-1], 1, stride, bias=False), nn.BatchNorm2d(sizes[-1])
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            for k in range(1, self.count + 1):
                x = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(x))
                x = torch.relu(x) if k < self.count else x
            return torch.relu(x + shortcut)

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = (
                nn.Conv2d(channels, width, 7, 2, 3, bias=False),
                nn.BatchNorm2d(width),
            )
            inputs = width
            for stage, count in enumerate(DEPTHS[depth]):
                planes, blocks = width << stage, []
                for k in range(count):
                    blocks.append(Block(inputs, planes, 2 if stage and k == 0 else 1))
                    inputs = planes * expansion
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        def forward(self, x):
            x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    torch.manual_seed(0)
    return randomized(ResNet())
