"""`diffi2i import diffir`: every layout of the authors' files is read, anything else is refused in one line."""

import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from spandrel.architectures.NAFNet import NAFNet
from torch import Tensor, nn

from diffi2i import cli
from diffi2i.commands import train
from diffi2i.commands.eval import evaluate
from diffi2i.commands.imports import import_run
from diffi2i.commands.predict import predict
from diffi2i.config.commands import EvalConfig, ImportConfig, PredictConfig
from diffi2i.methods.imports.diffir import convert
from tests.authors_diffir import weights as authors
from tests.checkpoints import Running, saved
from tests.conftest import Make
from tests.refusals import command_refusal, refusal
from tests.runs import result, weights
from tests.settings import CPU

Weights = dict[str, Tensor]
# As small as the authors' classes go, whose CPEN has one size; for deblurring, which does not enlarge.
ARGS: dict[str, Any] = {
    "n_encoder_res": 1,
    "inp_channels": 3,
    "dim": 8,
    "num_blocks": [1, 1, 1, 1],
    "num_refinement_blocks": 0,
    "heads": [1, 2, 4, 8],
    "ffn_expansion_factor": 2,
    "LayerNorm_type": "WithBias",
}
SIZES = ["model=diffir_tiny", "model.cpen.channels=64", "model.network.width=8", "model.network.blocks=[1,1,1,1]"]
TASK = ["task=deblur", *SIZES]


@pytest.fixture(scope="module")
def first() -> Weights:
    """Stage 1."""
    return {name: value.float() for name, value in authors(ARGS, second=False).items()}


@pytest.fixture(scope="module")
def second() -> Weights:
    """Stage 2, with all that stands twice."""
    return {name: value.float() for name, value in authors(ARGS, second=True).items()}


def zeros(state: Weights) -> Weights:
    return {name: torch.zeros_like(value) for name, value in state.items()}


def lightning(generator: Weights, teacher: Weights | None) -> dict[str, Any]:
    """A checkpoint of the inpainting trainer: all its networks, and a configuration that only omegaconf can read."""
    state = {f"generator.{name}": value for name, value in generator.items()}
    state |= {f"generatorS1.{name}": value for name, value in (teacher or {}).items()}
    for name in ("discriminator.model0.0.weight", "val_evaluator.scores.lpips.weight", "loss_resnet_pl.impl.weight"):
        state[name] = torch.ones(2)
    settings = OmegaConf.create({"generator": {"kind": "DiffIR", "blocks": [1, 1, 1, 9]}, "lr": 2e-4})
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "1.2.9",
        "state_dict": OrderedDict(state),
        "hyper_parameters": {"config": settings},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 2e-4}]}],
    }


def test_every_layout_has_the_same_weights(first: Weights, second: Weights, tmp_path: Path) -> None:
    layouts = {
        "basicsr.pth": {"params": zeros(second), "params_ema": second},
        "params.pth": {"params": second},
        "parallel.pth": {"params_ema": {f"module.{name}": value for name, value in second.items()}},
        "flat.pth": second,
        "flat.safetensors": second,
        "old.pt": {"state_dict": second},
        "last.ckpt": lightning(second, None),
        "whole.ckpt": lightning(second, first),
    }
    states = {}
    for name, content in layouts.items():
        method = convert(saved(content, tmp_path / name), TASK)
        assert method.config.method["name"] == "diffir_s2"
        assert method.config.method["teacher"] == (name == "whole.ckpt")
        states[name] = method.state_dict()
    expected = states["flat.pth"]
    assert any(value.any() for value in expected.values())
    for name, state in states.items():
        teacher = {key for key in state if key.startswith("cpen_s1.")}
        assert bool(teacher) == (name == "whole.ckpt")
        assert state.keys() - teacher == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
    stage1 = convert(saved(first, tmp_path / "place-S1.pth"), TASK)
    assert stage1.config.method["name"] == "diffir_s1"
    taught = {key: value for key, value in states["whole.ckpt"].items() if key.startswith("cpen_s1.")}
    assert all(torch.equal(stage1.state_dict()[key], value) for key, value in taught.items())


# --- what is refused --------------------


def edited(**changed: Tensor | None) -> Callable[[Weights], Weights]:
    """The state dict with these tensors, or without those that are None."""
    return lambda state: {name: value for name, value in (state | changed).items() if value is not None}


def nan(state: Weights) -> Weights:
    return state | {"G.output.weight": torch.full_like(state["G.output.weight"], torch.nan)}


BETAS = torch.linspace(0.1, 0.99, 4)  # as the paper's text has them
BAD: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "betas of the text": (edited(**{"diffusion.betas": BETAS}), "was trained with the betas 0.1000, 0.3967, 0.6933"),
    "more betas": (
        edited(**{"diffusion.betas": torch.linspace(0.1, 0.9, 8)}),
        "was trained with the betas 0.1000, 0.2143",
    ),
    "no betas": (edited(**{"diffusion.betas": None}), "lacks diffusion.betas"),
    "no constants": (edited(**{"diffusion.posterior_variance": None}), "lacks diffusion.posterior_variance"),
    "missing": (
        edited(**{"G.output.weight": None}),
        "lacks G.output.weight, which model=diffir_tiny of task=deblur has",
    ),
    "extra": (
        edited(**{"G.extra.weight": torch.ones(1)}),
        "has G.extra.weight, which model=diffir_tiny of task=deblur lacks",
    ),
    "shape": (
        edited(**{"G.output.weight": torch.ones(3, 8, 3, 3)}),
        "G.output.weight has the shape [3, 8, 3, 3], model=",
    ),
    "unequal twin": (
        edited(**{"diffusion.model.resmlp.0.bias": torch.ones(256)}),
        "diffusion.model.resmlp.0.bias differs, which should repeat denoise.resmlp.0.bias",
    ),
    "missing twin": (
        edited(**{"diffusion.condition.mlp.0.bias": None}),
        "diffusion.condition.mlp.0.bias is missing, which should repeat condition.mlp.0.bias",
    ),
    "NaN": (nan, "G.output.weight has values that are not finite: the file is damaged"),
    "list": (lambda state: list(state.values()), "holds a list, not a dictionary of tensors"),
    "tensor": (lambda state: torch.ones(3), "holds a Tensor, not a dictionary of tensors"),
    "numbers": (lambda state: {"epoch": 3, "lr": 2e-4}, "holds no dictionary of tensors, nor one under params_ema"),
    "empty": (lambda state: {}, "holds no dictionary of tensors"),
    "another network": (
        lambda state: NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1]).state_dict(),
        "is no DiffIR: it has neither denoise.* (stage 2) nor E.* (stage 1)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(name: str, second: Weights, tmp_path: Path) -> None:
    change, words = BAD[name]
    line = refusal(convert, saved(change(second), tmp_path / "a.pth"), TASK)
    assert words in line
    assert line.startswith(str(tmp_path / "a.pth"))


def test_other_betas_are_taken_where_they_are_written(second: Weights, tmp_path: Path) -> None:
    file = saved(second | {"diffusion.betas": BETAS}, tmp_path / "a.pth")
    assert convert(file, [*TASK, "method.diffusion.schedule=linear"]).config.method["diffusion"]["schedule"] == "linear"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=deblur"], "lacks G."),  # the paper's sizes
        (["task=inpainting", *SIZES], "wants [64, 64, 3, 3]: name its task, its task.scale and its model="),
        (["task=sisr", *SIZES], "lacks G.tail.0.0.bias, which model=diffir_tiny of task=sisr has: name its task"),
        (["task=depth"], "model=diffir_tiny predicts image, task=depth depth"),
        ([*TASK, "model.network.width=16"], "has the shape"),
        ([*TASK, "foo=1"], "unknown key 'foo'"),
    ],
)
def test_another_task_or_model_is_refused(overrides: list[str], words: str, second: Weights, tmp_path: Path) -> None:
    assert words in refusal(convert, saved(second, tmp_path / "a.pth"), overrides)


def test_another_scale_is_refused(tmp_path: Path) -> None:
    """Below x4 the network sees the input unshuffled."""
    of_scale = {"n_encoder_res": 1, "LayerNorm_type": "BiasFree", "scale": 4}
    file = saved({"params_ema": authors(ARGS | of_scale, second=True)}, tmp_path / "x4.pth")
    sizes = ["task=realsr", *SIZES, "model.network.norm_bias=false", "+model.network.enlargement=4"]
    convert(file, sizes)
    for scale, channels in ((2, 12), (1, 48)):
        words = f"task=realsr at task.scale={scale} wants [64, {channels}, 3, 3]"
        assert words in refusal(convert, file, [*sizes, f"task.scale={scale}"])


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
def test_a_damaged_file_is_refused(suffix: str, second: Weights, tmp_path: Path) -> None:
    whole = saved(second, tmp_path / f"whole{suffix}").read_bytes()
    for content in (whole[:-1000], whole[:100], b"", b"no weights at all"):
        file = tmp_path / f"broken{suffix}"
        file.write_bytes(content)
        line = refusal(convert, file, TASK)
        assert "is damaged, or no checkpoint" in line
        assert "weights_only" not in line  # no advice how to load it all the same


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "is no file: name a checkpoint" in refusal(convert, tmp_path / "nothing.pth", TASK)
    assert "is no file: name a checkpoint" in refusal(convert, tmp_path, TASK)
    (tmp_path / "weights.bin").touch()
    assert "is no checkpoint: name a .pth, .ckpt or .safetensors" in refusal(convert, tmp_path / "weights.bin", TASK)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, nn.Linear])
def test_a_pickle_that_would_run_does_not(
    function: Any, zipped: bool, second: Weights, tmp_path: Path, capsys: Any
) -> None:
    marker, file = tmp_path / "ran", tmp_path / "a.pth"
    code = f"touch '{marker}'" if function is os.system else f"open({str(marker)!r}, 'w')"
    arguments = {getattr: ("a", "upper"), nn.Linear: (1, 1)}.get(function, (code,))
    content = lightning(second, None) | {"callbacks": Running(function, *arguments)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    line = command_refusal(["import", "diffir", str(file), *TASK, f"run_dir={tmp_path / 'run'}"], capsys)
    assert re.search(rf"{re.escape(str(file))} would run [\w.]+: it is not loaded$", line)
    assert not marker.exists()
    assert not (tmp_path / "run").exists()


# --- the run --------------------


def importing(file: Path, run_dir: Path, images: Path) -> ImportConfig:
    scores = ["task.protocol.metrics=[psnr]", "task.main_metric=psnr", "trainer=cpu", "trainer.precision=fp32"]
    overrides = [*TASK, "dataset=folder", f"root={images}", *scores]
    return ImportConfig(words=["diffir", str(file)], run_dir=str(run_dir), overrides=overrides)


def test_its_run_needs_nothing_else(second: Weights, images: Path, tmp_path: Path, capsys: Any) -> None:
    file = saved({"params_ema": second}, tmp_path / "authors.pth")
    import_run(importing(file, tmp_path / "made", images))
    assert "DiffIR" in capsys.readouterr().out
    before = (tmp_path / "made" / "result.json").read_bytes()
    assert import_run(importing(file, tmp_path / "made", images)) == tmp_path / "made"  # given again
    assert (tmp_path / "made" / "result.json").read_bytes() == before
    assert "DiffIR" in capsys.readouterr().out

    run_dir = tmp_path / "moved"
    shutil.move(tmp_path / "made", run_dir)
    file.unlink()
    found = result(run_dir)
    assert (found.method.name, found.budget, found.training.steps) == ("diffir_s2", "paper", 0)
    again = evaluate(EvalConfig(run=str(run_dir), trainer=CPU, output=str(tmp_path / "again")))
    assert result(again).scores == found.scores
    image = images / "image03.png"
    predict(PredictConfig(run=str(run_dir), input=str(image), output=str(tmp_path / "out"), trainer=CPU))
    assert np.array(Image.open(tmp_path / "out" / image.name)).shape == np.array(Image.open(image)).shape


def test_a_directory_of_another_run_is_left_alone(
    first: Weights, second: Weights, make: Make, images: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    file = saved(second, tmp_path / "a.pth")
    other = import_run(importing(saved(first, tmp_path / "b.pth"), tmp_path / "other", images))
    trained = train.train(make("trained", "train.steps=2"))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained, unfinished)
    (unfinished / "result.json").unlink()
    for run_dir in (other, trained, unfinished):
        kept = weights(run_dir), (run_dir / "config.yaml").read_bytes()
        assert "holds another run: name another run_dir" in refusal(import_run, importing(file, run_dir, images))
        assert (run_dir / "config.yaml").read_bytes() == kept[1]
        assert all(torch.equal(value, kept[0][key]) for key, value in weights(run_dir).items())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for place in (tmp_path / "full", file):
        assert "is not empty and holds no run" in refusal(import_run, importing(file, place, images))


def test_an_unknown_source_is_refused(tmp_path: Path, capsys: Any) -> None:
    file = saved({}, tmp_path / "a.pth")
    line = command_refusal(["import", "nobody", str(file), f"run_dir={tmp_path / 'run'}"], capsys)
    assert "import nobody: choose a source of diffir, spandrel" in line
    with pytest.raises(SystemExit):
        cli.main(["import", str(file), f"run_dir={tmp_path / 'run'}"])
    assert "import needs a source and a file" in capsys.readouterr().err
