"""The authors' DiffIR reproduced: weights by formula, in their layout, through the importer.

`tests/data/diffir_golden.json` has what the public repository computes from the same weights and inputs.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffi2i.methods.imports.diffir import convert
from diffi2i.metrics.cost import parameters
from tests.authors_diffir import filled, weights

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "diffir_golden.json").read_text())["networks"]
SETTINGS = {
    "DiffIR-inpainting": ("task=inpainting",),
    "DiffIR-inpainting-bigdata": ("task=inpainting", "model=diffir_inpainting_big"),
    "DiffIR-SRGAN": ("task=sisr",),
    "DiffIR-RealSR-x2": ("task=realsr", "task.scale=2"),
    "DiffIR-RealSR-x1": ("task=realsr", "task.scale=1"),
    "DiffIR-demotionblur": ("task=deblur",),
}
TOLERANCE = {"float64": 1e-7, "float32": 1e-5}


@pytest.fixture(scope="module", params=SETTINGS)
def network(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """A network's name, and its two stages, imported from files that hold float64."""
    name = request.param
    made = []
    torch.set_default_dtype(torch.float64)  # in which the networks are made, so that the weights are not rounded
    try:
        for second in (False, True):
            file = tmp_path_factory.mktemp("authors") / f"stage{1 + second}.pth"
            torch.save({"params_ema": weights(GOLDEN[name]["args"], second), "params": {}}, file)
            made.append(convert(file, SETTINGS[name]).eval())
            file.unlink()
    finally:
        torch.set_default_dtype(torch.float32)
    return name, *made


def inputs(name: str, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
    """The batch, and z_T or what noises Z."""
    args = GOLDEN[name]["args"]
    scale = args.get("scale", 1)
    image = ((filled((2, args["inp_channels"], 32, 32), 100001) + 1) / 2).to(dtype)
    truth = ((filled((2, 3, 32 * scale, 32 * scale), 100002) + 1) / 2).to(dtype)
    noise = (3**0.5 * filled((2, 256), 100003)).to(dtype)
    batch = {"name": ["a", "b"], "target": truth, "input": image[:, :3]}
    if args["inp_channels"] == 4:
        mask = (image[:, 3:] > 0.5).to(dtype)
        batch |= {"mask": mask, "input": image[:, :3] * (1 - mask)}
    return batch, noise


def agrees(found: Tensor, expected: dict[str, Any], tolerance: float) -> None:
    flat = found.detach().flatten().double()
    statistics = {"mean": flat.mean(), "std": flat.std(unbiased=False), "abs_mean": flat.abs().mean()}
    assert flat.numel() == expected["shape_flat"]
    for key, value in statistics.items():
        assert float(value) == pytest.approx(expected[key], abs=tolerance), key
    for key, values in (("first5", flat[:5]), ("last5", flat[-5:])):
        torch.testing.assert_close(values, torch.tensor(expected[key], dtype=torch.float64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@torch.no_grad()
def test_it_computes_what_the_authors_code_computes(network: Any, precision: str) -> None:
    name, first, second = network
    dtype, expected = getattr(torch, precision), GOLDEN[name][precision]
    tolerance = TOLERANCE[precision]
    first, second = first.to(dtype), second.to(dtype)
    batch, noise = inputs(name, dtype)
    z = first.prior(batch)
    agrees(z, expected["S1: Z = E(input, gt)"], tolerance)
    agrees(first.restore(batch, z), expected["S1: output"], tolerance)
    image = second.seen(batch)
    condition = second.cpen_s2(image)
    agrees(condition, expected["D = condition(input)"], tolerance)
    one = torch.ones(2, dtype=dtype)
    agrees(second.denoiser(noise, one, condition), expected["denoise(z_T, t=3, D)"], tolerance)
    z_hat = second.estimate(image, noise, lambda _: noise)
    agrees(z_hat, expected["Z_hat at inference"], tolerance)
    agrees(second.restore(batch, z_hat), expected["output at inference"], tolerance)
    z_T = second.schedule.noised(z, second.schedule.steps, noise)
    agrees(z_T, expected["training pass: z_T = q_sample(Z of S1, t=3, noise = z_T fill)"], tolerance)
    z_hat = second.estimate(image, z_T, lambda _: noise)
    agrees(z_hat, expected["training pass: Z_hat"], tolerance)
    agrees(second.restore(batch, z_hat), expected["training pass: output"], tolerance)


def test_super_resolution_of_real_photos_at_x4_is_that_of_bicubic_ones() -> None:
    assert GOLDEN["DiffIR-RealSR-x4"] == GOLDEN["DiffIR-SRGAN"]


def test_its_sizes_are_the_authors(network: Any) -> None:
    name, first, second = network
    expected = GOLDEN[name]
    assert parameters(*second.parts().values()) == expected["parameters_S2"]
    assert parameters(*first.parts().values()) == expected["parameters_S1"]
