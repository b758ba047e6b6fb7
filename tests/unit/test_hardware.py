"""A method on its device: the form in which its layers are fastest there, and the same numbers."""

from collections.abc import Iterator

import lightning as L
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from diffi2i.config.schema import TrainerConfig
from diffi2i.run.hardware import new_trainer, placed
from tests.networks import randomise

CPU = TrainerConfig(accelerator="cpu", precision="fp32")
HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch without oneDNN")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layers() -> nn.Sequential:
    return randomise(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=2)))


@onednn
@pytest.mark.usefixtures("one_thread")
def test_placed_convolutions_are_onednns_and_compute_the_same_with_the_same_gradients():
    plain, ready = layers(), placed(layers(), CPU)
    x = torch.rand(8, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for net in (plain, ready):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            output = net(x)
            output.square().sum().backward()
        names = [event.name for event in seen.events()]
        found.append((output, [each.grad for each in net.parameters()], names))
    assert any("slow_conv2d" in name for name in found[0][2]), "PyTorch no longer does what `by_onednn` mends"
    assert not any("slow_conv2d" in name for name in found[1][2])
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-4)


def test_a_placed_convolution_equals_the_sum_over_its_channels():
    conv = placed(randomise(nn.Conv2d(5, 3, 1)).double(), CPU)
    x = torch.rand(2, 5, 6, 7, dtype=torch.float64)
    bias = 0 if conv.bias is None else conv.bias[:, None, None]
    torch.testing.assert_close(conv(x), torch.einsum("oi,bihw->bohw", conv.weight[..., 0, 0], x) + bias)


@onednn
def test_other_kernels_are_not_dilated():
    assert [layer.dilation for layer in placed(layers(), CPU) if isinstance(layer, nn.Conv2d)] == [
        (2, 2),
        (1, 1),
        (2, 2),
    ]


@onednn
def test_lightnings_trainer_places_too():
    class Untrained(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers()

        def validation_step(self, batch: list[torch.Tensor]) -> None:
            self.layers(batch[0])

    module = Untrained()
    trainer = new_trainer(CPU, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.validate(module, DataLoader(TensorDataset(torch.rand(1, 4, 8, 8))), verbose=False)
    assert [layer.dilation for layer in module.layers if isinstance(layer, nn.Conv2d)] == [(2, 2), (1, 1), (2, 2)]


def test_without_onednn_nothing_is_dilated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert {layer.dilation for layer in placed(layers(), CPU) if isinstance(layer, nn.Conv2d)} == {(1, 1)}
