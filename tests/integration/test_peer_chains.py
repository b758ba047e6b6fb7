"""Methods that start from other methods: trained, scored under other settings, and used, as a user would."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffi2i.commands import train
from diffi2i.commands.eval import evaluate
from diffi2i.commands.predict import predict
from diffi2i.config.commands import EvalConfig, PredictConfig
from diffi2i.config.schema import TrainerConfig
from diffi2i.methods.build import check
from tests.adversaries import HINGE, gan
from tests.conftest import Make
from tests.refusals import refusal
from tests.runs import result, weights

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
CPU = TrainerConfig(accelerator="cpu", precision="fp32", progress=False)
DPM = "method.sampler={_target_: diffi2i.diffusion.samplers.dpm_solver, _partial_: true, steps: 3}"


def scored(run_dir: Path, output: Path, *settings: str) -> Any:
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
    assert again.scores == found.scores
    other = scored(run, tmp_path / "dpm", DPM)
    assert other.cost.calls == 3
    assert other.scores != found.scores
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
    assert "has method.diffusion.steps=20: write method.diffusion.steps=20" in words
    run = train.train(make("repaint", *repaint, f"method.init={blind}"))
    found = result(run)
    assert (found.training.steps, found.method.init.method) == (0, "pixel_diffusion")
    assert found.cost.calls == 10  # 6 steps, and at 1 and 3 one more time down two
    fewer = scored(run, tmp_path / "fewer", "method.resamplings=1")
    assert fewer.cost.calls == 6
    assert all(torch.equal(weights(run)[key], value) for key, value in weights(blind).items())


def test_an_unconditional_diffusion_is_distilled_with_a_condition(make: Make, tmp_path: Path) -> None:
    seeing = train.train(make("seeing", "method=pixel_diffusion", "train.steps=2"))
    blind = train.train(make("blind", "method=pixel_diffusion", "method.conditional=false", "train.steps=2"))
    run = train.train(make("codi", "method=codi", f"method.init={blind}"))
    frugal = train.train(make("pe", "method=codi", "method.trained=adapter", f"method.init={blind}"))
    adapted = train.train(make("adapted", "method=codi", "method.learns=denoising", f"method.init={blind}"))
    consistent = train.train(make("cm", "method=codi", "method.learns=consistency", f"method.init={adapted}"))
    found = result(run)
    assert (found.method.label, found.method.init.method, found.cost.calls) == ("CoDi", "pixel_diffusion", 4)
    assert result(frugal).method.label == "PE-CoDi"
    theirs = {key.replace("network.", "network.denoiser."): value for key, value in weights(blind).items()}
    for each, kept in ((run, False), (frugal, True), (adapted, False), (consistent, False)):
        ours = weights(each)
        assert all(key.startswith("network.") for key in ours), "what only a training has was kept"
        assert all(torch.equal(ours[key], value) for key, value in theirs.items()) == kept
        assert ours["network.mu"].any()
    few = scored(run, tmp_path / "few", "method.sampler.steps=1")
    assert few.cost.calls == 1
    assert few.scores != found.scores
    on = train.train(make("on", "method=depth_skip", "method.depth=2", f"method.init={frugal}", "train.steps=2"))
    assert result(on).method.label == "PE-CoDi, depth 2"
    assert weights(on).keys() < weights(frugal).keys()
    for settings, words in {
        ("method=codi", f"method.init={seeing}"): "sees the input: train one with method.conditional=false",
        ("method=codi", f"method.init={blind}", "method.codec=pixels"): "unshuffled: write method.codec=unshuffled",
        (
            "method=codi",
            f"method.init={adapted}",
        ): "is conditional already, by method.learns=denoising: name the run of",
        ("method=codi", "method.learns=consistency", f"method.init={run}"): "distils a conditional diffusion: write",
        ("method=invsr", f"method.init={run}"): "is a run of codi: name one of pixel_diffusion",
    }.items():
        assert words in refusal(lambda settings=settings: check(make("no", *settings)))


def test_an_unconditional_diffusion_is_inverted(make: Make, images: Path, tmp_path: Path) -> None:
    seeing = train.train(make("seeing", "method=pixel_diffusion", "train.steps=2"))
    blind = train.train(make("blind", "method=pixel_diffusion", "method.conditional=false", "train.steps=2"))
    run = train.train(make("invsr", "method=invsr", f"method.init={blind}", *gan("sisr", HINGE)))
    found, ours = result(run), weights(run)
    assert (found.method.init.method, found.training.loss, found.cost.calls) == ("pixel_diffusion", "gan", 2)
    assert {key.partition(".")[0] for key in ours} == {"network", "predictor"}
    assert all(torch.equal(ours[key], value) for key, value in weights(blind).items())
    more = scored(run, tmp_path / "more", "method.times=[5,3,1]")
    drawn = scored(run, tmp_path / "drawn", "method.noise=drawn")
    assert more.cost.calls == 3
    assert len({str(each.scores) for each in (found, more, drawn)}) == 3
    file = sorted(images.glob("*.png"))[0]
    predict(PredictConfig(run=str(run), input=str(file), output=str(tmp_path / "out"), trainer=CPU))
    assert Image.open(tmp_path / "out" / file.name).size == tuple(4 * side for side in Image.open(file).size)
    for settings, words in {
        ("method=invsr", f"method.init={seeing}"): "sees the input: train one with method.conditional=false",
        ("method=invsr", f"method.init={blind}", "method.codec=pixels"): "unshuffled: write method.codec=unshuffled",
    }.items():
        assert words in refusal(lambda settings=settings: check(make("no", *settings)))


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
