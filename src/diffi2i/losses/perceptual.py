"""Distances between the features that a trained network sees in output and target.

The network is used, not learned: it is frozen, in eval mode, in no state_dict, and copies of a loss share it. It runs
under the caller's autocast, LPIPS's in float32; the distances are taken in float32. Images are RGB in [0, 1],
(B, 3, H, W), and are normalised with the ImageNet mean and deviation, which all these networks were trained with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Private: the public class downloads torchvision's weights when it is built.
from torchmetrics.functional.image.lpips import _LPIPS

from diffi2i import weights

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class VGG19Perceptual:
    """Real-ESRGAN's: L1 between VGG-19 features before the ReLU of conv1_2, 2_2, 3_4, 4_4, 5_4.

    Weights 0.1, 0.1, 1, 1, 1; the mean is over each layer's values. Images need 16 pixels on a side.

    Args:
        trunk: `{"<index in torchvision's vgg19().features>.weight" or ".bias": ...}`; `weights.vgg19_trunk()` if None.

    Raises `WeightsUnavailableError` where torchvision's file can neither be found nor fetched.
    """

    def __init__(self, trunk: Mapping[str, Tensor] | None = None) -> None:
        self._network = _Frozen(_VGG((2, 2, 4, 4, 4), weights.vgg19_trunk() if trunk is None else trunk))

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return _vgg_distance(self._network, output, batch["target"])


class VGG16Perceptual:
    """`VGG19Perceptual` on VGG-16: conv1_2, 2_2, 3_3, 4_3, 5_3, the same weights; for small scales.

    LPIPS's trunk, which the Python package index has; the values are not comparable with VGG-19's.

    Args:
        trunk: as for `VGG19Perceptual`, of `vgg16().features`; `weights.lpips_trunk("vgg")` if None.

    Raises `WeightsUnavailableError` where that cannot be had.
    """

    def __init__(self, trunk: Mapping[str, Tensor] | None = None) -> None:
        self._network = _Frozen(_VGG((2, 2, 3, 3, 3), weights.lpips_trunk("vgg") if trunk is None else trunk))

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return _vgg_distance(self._network, output, batch["target"])


class HRFPerceptual:
    """LaMa's high-receptive-field loss (`ResNetPL`): summed mean squared differences of a segmenter's features.

    The four stages of CSAIL's dilated ResNet-50 trained on ADE20K. LaMa's weight is 30.

    Args:
        trunk: the encoder's state dict under CSAIL's names; `weights.ade20k_resnet50()` if None.

    Raises `WeightsUnavailableError` where the file is not in the cache (nothing fetches it).
    """

    def __init__(self, trunk: Mapping[str, Tensor] | None = None) -> None:
        self._network = _Frozen(_dilated_resnet50(weights.ade20k_resnet50() if trunk is None else trunk))

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        pairs = self._network.features_of(output, batch["target"])
        return torch.stack([F.mse_loss(ours, true) for ours, true in pairs]).sum()


class LPIPS:
    """LPIPS 0.1 on VGG-16 (Zhang et al. 2018), a mean over the images. Images need 16 pixels on a side.

    Args:
        trunk: as for `VGG16Perceptual`.

    Raises `WeightsUnavailableError` where that cannot be had.
    """

    def __init__(self, trunk: Mapping[str, Tensor] | None = None) -> None:
        self._network = _Frozen(lpips_network("vgg", weights.lpips_trunk("vgg") if trunk is None else trunk))

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        network = self._network.network.to(output.device)
        # Its features are made unit vectors, of whose differences bfloat16 would leave little.
        with torch.autocast(output.device.type, enabled=False):
            distance: Tensor = network(output.float(), batch["target"].detach().float(), normalize=True)
        return distance.mean()


def lpips_network(net: weights.Net, trunk: Mapping[str, Tensor]) -> nn.Module:
    """LPIPS 0.1 with torchmetrics' own linear heads and our trunk."""
    # Building draws random weights: training's random stream must not depend on whether LPIPS is computed.
    with torch.random.fork_rng(devices=[]):
        model = _LPIPS(net=net, pnet_rand=True)
    # Its slices keep the indices of torchvision's `features`: "slice2.3.weight" is "3.weight".
    state = {key: trunk[key.partition(".")[2]] for key in model.net.state_dict()}
    model.net.load_state_dict(state, assign=True)
    return model


def _vgg_distance(network: "_Frozen", output: Tensor, target: Tensor) -> Tensor:
    pairs = network.features_of(output, target)
    distances = [w * F.l1_loss(ours, true) for w, (ours, true) in zip((0.1, 0.1, 1, 1, 1), pairs, strict=True)]
    return torch.stack(distances).sum()


class _Frozen:
    """A network that belongs to nobody: not an `nn.Module`, so no module adopts it, and its copies are itself."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Frozen":
        return self

    def features_of(self, output: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pairs of float32 features on the output's device; gradients reach the output alone."""
        self.network.to(output.device)
        ours = self.network(_normalise(output))
        with torch.no_grad():
            true = self.network(_normalise(target))
        return [(a.float(), b.float()) for a, b in zip(ours, true, strict=True)]


def _normalise(image: Tensor) -> Tensor:
    image = image.float()
    return (image - image.new_tensor(_MEAN).view(3, 1, 1)) / image.new_tensor(_STD).view(3, 1, 1)


class _VGG(nn.Module):
    """torchvision's `features` up to the last convolution, giving the last one of each block before its ReLU."""

    def __init__(self, convs: Sequence[int], trunk: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps = []
        inputs = 3
        # On the meta device nothing is drawn or allocated: the random stream of training stays as it was.
        with torch.device("meta"):
            for block, count in enumerate(convs):
                width = min(64 * 2**block, 512)
                for _ in range(count):
                    # The ReLU leaves its input alone: the tap before it is part of the loss.
                    layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                    inputs = width
                self.taps.append(len(layers) - 2)
                layers.append(nn.MaxPool2d(2))
            self.layers = nn.Sequential(*layers[:-2])
        self.layers.load_state_dict(dict(trunk), assign=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taps:
                features.append(x)
        return features


class _Stages(nn.Module):
    """A timm ResNet's four stages, (B, 256, H/4, W/4) to (B, 2048, H/8, W/8)."""

    def __init__(self, resnet: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act1, resnet.maxpool)
        self.stages = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


def _dilated_resnet50(trunk: Mapping[str, Tensor]) -> nn.Module:
    """CSAIL's `resnet50dilated`: a stem of three 3x3 convolutions, strides of the last two stages made dilation."""
    from timm.models.resnet import Bottleneck, ResNet

    block: Any = Bottleneck  # timm's annotation asks for an instance where it wants the class
    with torch.device("meta"):
        resnet = ResNet(block, (3, 4, 6, 3), num_classes=0, stem_type="deep", stem_width=64, output_stride=8)
    # Batch norm's counter matters in training only, and files older than PyTorch 0.4.1 lack it.
    state = {
        key: torch.zeros((), dtype=torch.int64) if key.endswith("num_batches_tracked") else trunk[_csail_key(key)]
        for key in resnet.state_dict()
    }
    resnet.load_state_dict(state, assign=True)
    return _Stages(resnet)


def _csail_key(timm_key: str) -> str:
    """timm keeps the deep stem in `conv1` as a Sequential; beyond the stem the names are the same."""
    for timm_stem, csail in (
        ("conv1.0.", "conv1."),
        ("conv1.1.", "bn1."),
        ("conv1.3.", "conv2."),
        ("conv1.4.", "bn2."),
        ("conv1.6.", "conv3."),
        ("bn1.", "bn3."),
    ):
        if timm_key.startswith(timm_stem):
            return csail + timm_key.removeprefix(timm_stem)
    return timm_key
