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


def difference(found: Tensor, expected: dict[str, Any]) -> float:
    """The largest one between what is known of a tensor and this one; infinite where it has another size."""
    flat = found.detach().flatten().double()
    if flat.numel() != expected["shape_flat"]:
        return float("inf")
    ours = torch.cat([torch.stack([flat.mean(), flat.std(unbiased=False), flat.abs().mean()]), flat[:5], flat[-5:]])
    theirs = [expected["mean"], expected["std"], expected["abs_mean"], *expected["first5"], *expected["last5"]]
    return float((ours - torch.tensor(theirs, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.long), "float32"])
@torch.no_grad()
def test_it_computes_what_the_authors_code_computes(network: Any, precision: str) -> None:
    name, first, second = network
    dtype, expected = getattr(torch, precision), GOLDEN[name][precision]
    found: dict[str, Tensor] = {}
    first, second = first.to(dtype), second.to(dtype)
    batch, noise = inputs(name, dtype)
    image = second.seen(batch)
    z = first.prior(image, batch)
    found["S1: Z = E(input, gt)"] = z
    found["S1: output"] = first.network(image, z)
    condition = second.cpen_s2(image)
    found["D = condition(input)"] = condition
    one = torch.ones(2, dtype=dtype)
    found["denoise(z_T, t=3, D)"] = second.denoiser(noise, one, condition)
    z_hat = second.estimate(image, noise, lambda _: noise)
    found["Z_hat at inference"] = z_hat
    found["output at inference"] = second.network(image, z_hat)
    z_T = second.schedule.noised(z, second.schedule.steps, noise)
    found["training pass: z_T = q_sample(Z of S1, t=3, noise = z_T fill)"] = z_T
    z_hat = second.estimate(image, z_T, lambda _: noise)
    found["training pass: Z_hat"] = z_hat
    found["training pass: output"] = second.network(image, z_hat)
    assert found.keys() == expected.keys()
    apart = {name: difference(value, expected[name]) for name, value in found.items()}
    assert all(value <= TOLERANCE[precision] for value in apart.values()), apart


def test_super_resolution_of_real_photos_at_x4_is_that_of_bicubic_ones() -> None:
    assert GOLDEN["DiffIR-RealSR-x4"] == GOLDEN["DiffIR-SRGAN"]


def test_its_sizes_are_the_authors(network: Any) -> None:
    name, first, second = network
    expected = GOLDEN[name]
    assert parameters(*second.parts().values()) == expected["parameters_S2"]
    assert parameters(*first.parts().values()) == expected["parameters_S1"]
