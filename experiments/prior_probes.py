"""Where Z-hat varies, what of Z the input tells, and how far apart two outputs are: of the study's trained runs.

    python experiments/prior_probes.py photos=<BSDS500> [... the words of prior.py]

Called where prior.py was, whose weights it reads; runs without them, and those that have a line, are left out. It may
be stopped and called again. A line for each run in experiments/results/<budget>/prior/probes.json:

    file        the run's record
    draws       how many, for each validation image
    spread      variance of Z-hat over draws for one image, as a share of its variance over draws and images together
    told        1 - E|z - mean of the draws|^2 / E|z - mean of z|^2 over the validation images: how much of stage 1's Z
                the input tells the run; 1 all, 0 no more than a constant, below 0 less than that
    apart       root mean square difference of the outputs under two draws, in levels of 255
    apart_lpips their LPIPS on AlexNet
"""

import sys

import torch
from prior import Cell, asked, kept_as, listed, merged
from rich.progress import track
from torch import Tensor

from diffi2i.data.build import build_data
from diffi2i.errors import UserError
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.noise import noise_for
from diffi2i.metrics.image import lpips_alex
from diffi2i.run.directory import WEIGHTS, load_method
from diffi2i.run.hardware import prepare
from diffi2i.run.plan import Run

DRAWS = 8


def variances(draws: Tensor, z: Tensor) -> dict[str, float]:
    """`spread` and `told` of draws (K, n, D) and true z (n, D), in float64."""
    draws, z = draws.double(), z.double()
    over_draws = draws.var(dim=0).mean().item()
    total = over_draws + max(0.0, draws.mean(dim=0).var(dim=0).mean().item() - over_draws / len(draws))
    left = (z - draws.mean(dim=0)).square().sum(dim=1).mean()
    there = (z - z.mean(dim=0)).square().sum(dim=1).mean()
    return {"spread": over_draws / total if total else 0.0, "told": 1 - (left / there).item()}


def probe(run: Run) -> dict[str, float]:
    """Of stage 2 alone: other methods draw no Z."""
    method = load_method(run.directory).eval()
    assert isinstance(method, DiffI2IS2)
    assert method.cpen_s1 is not None
    data = build_data(run.config)
    data.setup("validate")
    draws, truth, apart = [], [], list[tuple[float, float]]()
    for batch in data.val_dataloader():
        image = method.seen(batch)
        noises = [noise_for(batch["name"], seed, image.device) for seed in range(DRAWS)]
        estimates = [method.prior(image, noise) for noise in noises]
        draws.append(torch.cat(estimates))
        truth.append(method.cpen_s1(image, batch["target"]))
        if run.config.task.kind == "image":
            one, other = (method.network(image, z).clamp(0, 1) for z in estimates[:2])
            apart.append(((one - other).square().mean().item(), lpips_alex(one, other).item()))
    found = {"draws": DRAWS, **variances(torch.stack(draws, dim=1), torch.cat(truth))}
    if apart:
        squares, lpips = map(torch.tensor, zip(*apart, strict=True))
        found |= {"apart": 255 * squares.mean().sqrt().item(), "apart_lpips": lpips.mean().item()}
    return found


def main() -> None:
    request, found = asked(sys.argv[1:]), dict[Cell, dict[str, str | float]]()
    file = request.results / request.budget / "prior" / "probes.json"
    known = {cell: line["file"] for cell, line in listed(file).items()}
    here = {cell: run for cell, run in request.runs.items() if (run.directory / WEIGHTS).is_file()}
    probed = {cell: run for cell, run in here.items() if run.config.method["name"] == "diffi2i_s2"}
    wanted = {cell: run for cell, run in probed.items() if known.get(cell) != kept_as(run)}
    try:
        with torch.inference_mode():
            for cell, run in track(wanted.items(), description="probing"):
                prepare(run.config.trainer)
                numbers = {name: float(f"{value:.6g}") for name, value in probe(run).items()}
                found[cell] = {"file": kept_as(run), **numbers}
    finally:
        merged(file, found)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
