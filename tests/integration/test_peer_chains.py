"""Methods that start from other methods: trained, scored under other settings, and used, as a user would."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffi2i.commands import train
from diffi2i.commands.eval import evaluate
from diffi2i.commands.predict import predict
from diffi2i.config.commands import EvalConfig, PredictConfig
from diffi2i.config.schema import TrainerConfig
from diffi2i.methods.build import check
from tests.conftest import Make
from tests.refusals import refusal
from tests.runs import result, weights

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
CPU = TrainerConfig(accelerator="cpu", precision="fp32", progress=False)
DPM = "method.sampler={_target_: diffi2i.diffusion.samplers.dpm_solver, _partial_: true, steps: 3}"


def scored(run_dir: Path, output: Path, *settings: str) -> object:
    return result(evaluate(EvalConfig(run=str(run_dir), set=list(settings), trainer=CPU, output=str(output))))


def test_a_latent_diffusion_starts_from_an_autoencoder_and_takes_another_sampler(
    make: Make, images: Path, tmp_path: Path
) -> None:
    codes = train.train(make("codes", "task=sisr", "method=autoencoder"))
    assert result(codes).method.sees_target
    run = train.train(make("ldm", "task=sisr", "method=ldm", f"method.init={codes}"))
    before, after = weights(codes), weights(run)
    assert all(torch.equal(after[key.replace("autoencoder.", "codec.")], value) for key, value in before.items())
    found = result(run)
    assert (found.cost.calls, found.method.init.method) == (4, "autoencoder")
    again = scored(run, tmp_path / "same")
    assert again.scores == found.scores  # type: ignore[attr-defined]
    other = scored(run, tmp_path / "dpm", DPM)
    assert other.cost.calls == 3  # type: ignore[attr-defined]
    assert other.scores != found.scores  # type: ignore[attr-defined]
    predict(PredictConfig(run=str(run), input=str(images), output=str(tmp_path / "out"), trainer=CPU))
    few = PredictConfig(run=str(run), set=[DPM], input=str(images), output=str(tmp_path / "few"), trainer=CPU)
    predict(few)
    for file in images.glob("*.png"):
        size = Image.open(file).size
        assert Image.open(tmp_path / "out" / file.name).size == (4 * size[0], 4 * size[1])
        assert (tmp_path / "few" / file.name).read_bytes() != (tmp_path / "out" / file.name).read_bytes()
    words = refusal(lambda: check(make("other", "task=deblur", "method=ldm", f"method.init={codes}")))
    assert "was trained for task=sisr: write task=sisr" in words
    wider = refusal(lambda: check(make("w", "method=ldm", f"method.init={codes}", "model.autoencoder.channels=3")))
    assert "has model.autoencoder" in wider


def test_repaint_starts_from_a_diffusion_that_sees_no_input(make: Make, tmp_path: Path) -> None:
    settings = ("task=inpainting", "method=pixel_diffusion", "method.codec=unshuffled")
    seeing = train.train(make("seeing", *settings, "train.steps=2"))
    blind = train.train(make("blind", *settings, "method.conditional=false"))
    repaint = ("task=inpainting", "method=repaint", "method.codec=unshuffled")
    words = refusal(lambda: check(make("no", *repaint, f"method.init={seeing}")))
    assert "sees the input: train one with method.conditional=false" in words
    words = refusal(lambda: check(make("no", *repaint, "method.diffusion.steps=30", f"method.init={blind}")))
    assert "method.diffusion=" in words
    run = train.train(make("repaint", *repaint, f"method.init={blind}"))
    found = result(run)
    assert (found.training.steps, found.method.init.method) == (0, "pixel_diffusion")
    assert found.cost.calls == 10  # 6 steps, and at 1 and 3 one more time down two
    fewer = scored(run, tmp_path / "fewer", "method.resamplings=1")
    assert fewer.cost.calls == 6  # type: ignore[attr-defined]
    assert all(torch.equal(weights(run)[key], value) for key, value in weights(blind).items())


def test_two_stages_of_diffir(make: Make, tmp_path: Path) -> None:
    first = train.train(make("s1", "task=deblur", "method=diffir_s1", "train.steps=2"))
    second = train.train(make("s2", "task=deblur", "method=diffir_s2", f"method.init={first}"))
    found = result(second)
    assert found.method.label == "DiffIR, stage 2"
    assert result(first).method.label == "DiffIR, stage 1 (sees GT)"
    assert "prior_dependence" in found.scores[found.main_metric].gains
    own = train.train(make("own", "task=deblur", "method=diffi2i_s1", "train.steps=2"))
    words = refusal(lambda: check(make("no", "task=deblur", "method=diffir_s2", f"method.init={own}")))
    assert "has no prior to go on with: name a run of method=diffir_s1" in words
