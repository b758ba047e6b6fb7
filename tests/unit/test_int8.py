"""Weights in 8 bits: how they are rounded, what a run of them is, and what goes on from one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffi2i.commands import train
from diffi2i.commands.compress import compress
from diffi2i.commands.eval import evaluate
from diffi2i.commands.export import export
from diffi2i.config.commands import CompressConfig, EvalConfig, ExportConfig
from diffi2i.methods.build import check
from diffi2i.models.int8 import in_int8
from diffi2i.run.directory import load_method
from tests.conftest import Make, random_batch
from tests.refusals import refusal
from tests.runs import result, weights
from tests.settings import CPU


@torch.no_grad()
def test_each_output_channel_is_rounded_by_its_own_scale() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 4, 3, groups=2)
    convolution.weight[2] = 0
    network = nn.Sequential(convolution, nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3))
    before = {key: value.double().numpy() for key, value in network.state_dict().items()}
    in_int8(network)
    kept = network.state_dict()
    for layer in ("0", "3"):
        whole, scale = (kept[f"{layer}.parametrizations.weight.original{i}"] for i in range(2))
        assert whole.dtype == torch.int8
        for ours, own, true in zip(whole.numpy(), scale.flatten().tolist(), before[f"{layer}.weight"], strict=True):
            largest = max(abs(true.min()), abs(true.max()))
            assert own == pytest.approx(largest / 127 if largest else 1, rel=1e-6)
            np.testing.assert_array_equal(ours, np.round(127 * true / largest) if largest else 0)
            np.testing.assert_allclose(own * ours.astype(float), true, atol=0.5001 * own if largest else 0)
    for key in ("0.bias", "1.weight", "1.bias", "3.bias"):
        np.testing.assert_array_equal(kept[key], before[key])
    assert not any(parameter.requires_grad for key, parameter in network.named_parameters() if "parametriz" in key)


@torch.no_grad()
def test_a_run_in_8_bits_is_the_run_with_its_weights_rounded(make: Make, tmp_path: Path) -> None:
    pixel = train.train(make("pixel", "method=pixel_diffusion", "train.steps=2"))
    run = train.train(make("run", "method=int8", f"method.init={pixel}"))
    sizes = [(each / "weights.safetensors").stat().st_size for each in (pixel, run)]
    assert sizes[1] < 0.5 * sizes[0]  # of so small a network, whose names and biases count
    assert {str(value.dtype) for value in weights(run).values()} == {"torch.int8", "torch.float32"}
    found = result(run)
    assert (found.method.name, found.method.label) == ("pixel_diffusion", "pixel_diffusion, int8")
    assert (found.training.steps, found.training.network_steps, found.training.loss) == (0, 2, None)

    plain, rounded, twice = load_method(pixel).eval(), load_method(run).eval(), load_method(pixel).eval()
    in_int8(twice)
    batch = random_batch(plain.config)
    one, two, three = (each.predict(batch, each.noise(batch)) for each in (plain, rounded, twice))
    assert torch.equal(two, three)
    assert 0 < (one - two).abs().mean() < 0.01
    with torch.autocast("cpu", torch.bfloat16):
        rounded.predict(batch, rounded.noise(batch))

    again = evaluate(EvalConfig(run=str(run), trainer=CPU, output=str(tmp_path / "again")))
    assert result(again).scores == found.scores
    few = evaluate(EvalConfig(run=str(run), trainer=CPU, set=["method.sampler.steps=2"], output=str(tmp_path / "few")))
    assert result(few).cost.calls == 2
    shared = export(ExportConfig(run=str(run), output=str(tmp_path / "shared")))
    assert weights(shared).keys() == weights(run).keys()
    assert all(torch.equal(value, weights(run)[key]) for key, value in weights(shared).items())
    words = "has weights in 8 bits, which learn nothing"
    assert words in refusal(compress, CompressConfig(run=str(run), steps=None, trainer=CPU))


def test_what_cannot_be_is_refused(make: Make, stage1: Path, tmp_path: Path) -> None:
    assert "needs a finished run: write method.init=" in refusal(lambda: check(make("no", "method=int8")))
    settings: tuple[Any, ...] = ("method=int8", f"method.init={stage1}")
    rounded = train.train(make("int8", *settings))
    for method in ("int8", "diffi2i_s2", "depth_skip"):
        overrides = (
            f"method={method}",
            f"method.init={rounded}",
            *(["method.depth=1"] if method == "depth_skip" else []),
        )
        words = refusal(lambda overrides=overrides: check(make("no", *overrides)))
        assert "has weights in 8 bits: name the run that they were made of" in words
    own = make("no", "method=diffi2i_s1", "+method.int8=true", f"method.init={stage1}")
    assert "method.int8 rounds what has been trained: leave it out" in refusal(check, own)
    changed = EvalConfig(run=str(rounded), trainer=CPU, set=["method.int8=false"])
    assert "set=method.int8: not a setting under which" in refusal(evaluate, changed)


def test_a_network_in_8_bits_is_not_quantised_once_more(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    plain = train.train(make("plain", "method=regressor", "train.steps=2"))
    run = train.train(make("run", "method=int8", f"method.init={plain}"))
    words = refusal(export, ExportConfig(run=str(run), output=str(tmp_path / "x"), format="onnx", quantise=True))
    assert "has weights in 8 bits already: write quantise=false" in words
    assert not (tmp_path / "x").exists()
