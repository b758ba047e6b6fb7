"""LPIPS and DISTS against their authors' packages, on the same trunk."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from diffi2i.config.schema import ProtocolConfig
from diffi2i.errors import WeightsUnavailableError
from diffi2i.metrics.image import ImageScores
from diffi2i.weights import Net, lpips_trunk
from tests.golden.test_golden_scores import photo

PAIRS = [photo(0, 160, 96, 120), photo(130, 30, 67, 51), photo(200, 100, 256, 200)]


def trunk(net: Net) -> dict[str, torch.Tensor]:
    try:
        return lpips_trunk(net)
    except WeightsUnavailableError as error:
        pytest.skip(str(error))


def ours(metric: str) -> list[float]:
    """The score of each pair."""
    scores = ImageScores(ProtocolConfig(metrics=[metric]))
    for i, (pred, target) in enumerate(PAIRS):
        scores.update(pred, target, names=[str(i)])
    return [float(record[metric]) for record in scores.per_image]


@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.filterwarnings("ignore:.*pretrained.*:UserWarning", "ignore:.*weight enum.*:UserWarning")
def test_lpips_is_the_reference_packages(net: Net) -> None:
    lpips = pytest.importorskip("lpips")
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    weights = trunk(net)
    reference.net.load_state_dict({key: weights[key.partition(".")[2]] for key in reference.net.state_dict()})
    with torch.no_grad():
        expected = [float(reference(pred, target, normalize=True)) for pred, target in PAIRS]
    assert min(expected) > 0.01
    assert ours(f"lpips_{net}") == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def dists(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The reference network, alpha and beta read from beside it: its constructor looks for them in the environment."""
    package = pytest.importorskip("DISTS_pytorch")
    with torch.device("meta"):  # 138 million random weights take seconds, and none stays
        network = vgg16(weights=None)
    network.features.load_state_dict(trunk("vgg"), assign=True)
    monkeypatch.setattr(package.DISTS_pt.models, "vgg16", lambda **_: network)
    reference: nn.Module = package.DISTS(load_weights=False)
    reference.load_state_dict(torch.load(Path(package.__file__).parent / "weights.pt"), strict=False)
    return reference


def test_dists_is_the_reference_packages(dists: nn.Module) -> None:
    with torch.no_grad():
        expected = [float(dists(pred, target)) for pred, target in PAIRS]
    assert min(expected) > 0.01
    assert ours("dists") == pytest.approx(expected, abs=1e-6)
