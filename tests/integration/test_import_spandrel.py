"""`diffi2i import spandrel`: runs that compute what the authors' networks do, of files in every layout they use."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.LaMa import LaMa
from spandrel.architectures.NAFNet import NAFNet
from spandrel_extra_arches import install
from spandrel_extra_arches.architectures.MPRNet import MPRNet
from spandrel_extra_arches.architectures.Restormer import Restormer
from torch import Tensor, nn

from diffi2i import cli
from diffi2i.commands.bench import bench
from diffi2i.commands.eval import evaluate
from diffi2i.commands.imports import import_run
from diffi2i.commands.predict import predict
from diffi2i.config.commands import BenchConfig, EvalConfig, ImportConfig, PredictConfig
from diffi2i.methods.imports.spandrel import convert
from diffi2i.run.directory import load_method
from diffi2i.tables.runs import print_table
from tests.checkpoints import Running, saved
from tests.conftest import awake
from tests.networks import pictures
from tests.refusals import command_refusal, refusal
from tests.runs import result, weights
from tests.settings import CPU

Weights = dict[str, Tensor]


def renamed(state: Weights) -> Weights:
    """ESRGAN's weights by the names of Real-ESRGAN's files; spandrel's own are those of the first ESRGAN."""
    heads = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}
    found = {}
    for name, value in state.items():
        name = re.sub(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3.", name)
        name = re.sub(r"model\.1\.sub\.\d+\.", "conv_body.", name)
        found[re.sub(r"model\.(\d+)\.", lambda match: f"{heads[match[1]]}.", name)] = value
    return found


def zeros(state: Weights) -> Weights:
    return {name: torch.zeros_like(value) for name, value in state.items()}


# Each at its smallest, the task, and how the authors' trainers save it; LaMa has one size.
Case = tuple[Callable[[], nn.Module], list[str], Callable[[Weights], Any]]
NETWORKS: dict[str, Case] = {
    "ESRGAN": (
        lambda: ESRGAN(num_filters=4, num_blocks=2),
        ["task=sisr"],
        lambda state: {"params": zeros(renamed(state)), "params_ema": renamed(state)},
    ),
    "ESRGAN-x2": (
        lambda: ESRGAN(in_nc=12, num_filters=4, num_blocks=1, shuffle_factor=2),
        ["task=realsr", "task.scale=2"],
        lambda state: {"params_ema": renamed(state)},
    ),
    "NAFNet": (
        lambda: NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1, 2], dec_blk_nums=[1, 1]),
        ["task=deblur"],
        lambda state: {"params": state},
    ),
    "Restormer": (
        lambda: Restormer(dim=8, num_blocks=[1, 1, 1, 2], num_refinement_blocks=1),
        ["task=deblur"],
        lambda state: state,
    ),
    "MPRNet": (
        lambda: MPRNet(n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4, num_cab=1),
        ["task=deblur"],
        lambda state: {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}},
    ),
    "LaMa": (
        lambda: LaMa(in_nc=4),
        ["task=inpainting"],
        lambda state: {
            "state_dict": {
                **{name.replace("model.model", "generator.model", 1): value for name, value in state.items()},
                "discriminator.model0.0.weight": torch.ones(1),
            }
        },
    ),
}
SCORES = ["task.protocol.metrics=[psnr]", "task.main_metric=psnr", "trainer=cpu", "trainer.precision=fp32"]


def network(name: str) -> nn.Module:
    """With random weights where it would start as the identity, and as if it had seen some images."""
    torch.manual_seed(0)
    made = awake(NETWORKS[name][0]()).eval()
    for key, buffer in made.named_buffers():
        if "running" in key:
            buffer.uniform_(0.5, 1.5)
    return made


@pytest.fixture(scope="module")
def lama() -> nn.Module:
    return network("LaMa")


@pytest.fixture(params=NETWORKS)
def made(request: Any, lama: nn.Module) -> tuple[str, nn.Module]:
    return request.param, lama if request.param == "LaMa" else network(request.param)


def folder_of(images: Path) -> list[str]:
    return ["dataset=folder", f"root={images}", *SCORES]


def spandrels(module: nn.Module, image: Tensor, mask: Tensor | None) -> Tensor:
    """What spandrel itself makes of an image of any size, in [0, 1]."""
    install(ignore_duplicates=True)
    descriptor: Any = ModelLoader().load_from_state_dict(module.state_dict())
    with torch.no_grad():
        found: Tensor = descriptor.eval()(*((image,) if mask is None else (image, mask)))
    return found


def test_an_imported_run_computes_what_the_network_computes(
    made: tuple[str, nn.Module], images: Path, tmp_path: Path, capsys: Any
) -> None:
    name, module = made
    _, task, layout = NETWORKS[name]
    file = saved(layout(module.state_dict()), tmp_path / "authors.pth")
    cli.main(["import", "spandrel", str(file), *task, *folder_of(images), f"run_dir={tmp_path / 'made'}"])
    assert f"| {name.partition('-')[0]}, authors " in capsys.readouterr().out
    run_dir = tmp_path / "moved"
    shutil.move(tmp_path / "made", run_dir)
    file.unlink()

    assert {path.suffix for path in run_dir.rglob("*") if path.is_file()} == {".yaml", ".json", ".safetensors", ".png"}
    assert str(tmp_path) not in (run_dir / "config.yaml").read_text().replace(f"run_dir: {tmp_path}", "")
    found = result(run_dir)
    assert (found.method.name, found.training.steps, found.budget) == ("spandrel", 0, "paper")
    assert found.method.imported
    assert found.cost.parameters == sum(weight.numel() for weight in module.parameters())
    assert {key.removeprefix("network.") for key in weights(run_dir)} == set(module.state_dict())

    method = load_method(run_dir).eval()
    for size in ((40, 40), (21, 34), (1, 1), (1, 20)):
        image = pictures(1, 3, *size)
        batch: Any = {"input": image, "name": ["any"]}
        mask = None
        if "inpainting" in task[0]:
            mask = (pictures(1, 1, *size, seed=1) > 0.5).float()
            batch |= {"mask": mask, "input": image * (1 - mask)}
        with torch.no_grad():
            output = method.predict(batch, method.noise(batch))
            with torch.autocast("cpu", torch.bfloat16):
                rounded = method.predict(batch, method.noise(batch))
        assert output.dtype == rounded.dtype == torch.float32
        assert torch.equal(rounded, output) == (name == "LaMa")
        torch.testing.assert_close(output.clamp(0, 1), spandrels(module, batch["input"], mask), rtol=0, atol=1e-5)
        assert output.std() > 0 or size == (1, 1)


@pytest.fixture(scope="module")
def run_dir(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAFNet, imported from tensors alone."""
    folder = tmp_path_factory.mktemp("nafnet")
    file = saved(network("NAFNet").state_dict(), folder / "width4.safetensors")
    overrides = ["task=deblur", *folder_of(images)]
    return import_run(ImportConfig(words=["spandrel", str(file)], run_dir=str(folder / "run"), overrides=overrides))


def test_every_command_takes_the_run(run_dir: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    file = images / "image03.png"
    predict(PredictConfig(run=str(run_dir), input=str(file), output=str(tmp_path / "out"), trainer=CPU))
    image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = (network("NAFNet")(image).clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(np.array(Image.open(tmp_path / "out" / "image03.png")) - expected).max() <= 0.51

    again = evaluate(EvalConfig(run=str(run_dir), trainer=CPU, output=str(tmp_path / "again")))
    assert result(again).scores == result(run_dir).scores
    capsys.readouterr()
    print_table([str(run_dir)])
    assert "| NAFNet, width4 |" in capsys.readouterr().out
    bench(BenchConfig(cases=[f"run={run_dir}"], size="32", repeats=1, trainer=CPU, output=str(tmp_path / "bench")))
    assert "network: " in capsys.readouterr().out


def test_an_import_given_again_is_done_and_another_is_refused(run_dir: Path, images: Path, tmp_path: Path) -> None:
    before = (run_dir / "result.json").read_bytes()
    file, overrides = run_dir.parent / "width4.safetensors", ["task=deblur", *folder_of(images)]
    again = ImportConfig(words=["spandrel", str(file)], run_dir=str(run_dir), overrides=overrides)
    assert import_run(again) == run_dir
    other = saved({"params": network("Restormer").state_dict()}, tmp_path / "other.pth")
    words = ["spandrel", str(other)]
    assert "holds another run: name another run_dir" in refusal(
        import_run, ImportConfig(words=words, run_dir=str(run_dir), overrides=overrides)
    )
    assert (run_dir / "result.json").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "is not empty and holds no run" in refusal(
        import_run, ImportConfig(words=words, run_dir=str(tmp_path / "full"), overrides=overrides)
    )


# --- what is refused --------------------


def grey() -> Weights:
    module: nn.Module = NAFNet(img_channel=1, width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    return module.state_dict()


def esrgan(**changed: Any) -> Weights:
    """A Real-ESRGAN with some of its tensors changed, or left out where they are None."""
    state = renamed(network("ESRGAN").state_dict()) | changed
    return {name: value for name, value in state.items() if value is not None}


KNOWN = "name a file of ESRGAN, LaMa, NAFNet, Restormer, MPRNet"
BAD: dict[str, tuple[Callable[[], Any], str, str]] = {
    "TorchScript": (esrgan, "a.pt", "is no checkpoint for import spandrel: name a .pth or .safetensors file"),
    "Lightning": (esrgan, "a.ckpt", "is no checkpoint for import spandrel: name a .pth or .safetensors file"),
    "list": (lambda: [torch.ones(1)], "a.pth", "holds a list, not a dictionary of tensors"),
    "numbers": (lambda: {"epoch": 1, "lr": 0.1}, "a.pth", "holds no dictionary of tensors, nor one under params_ema"),
    "empty": (dict, "a.pth", "holds no dictionary of tensors"),
    "no network": (
        lambda: {"weight": torch.ones(1)},
        "a.safetensors",
        f"is no network that spandrel recognises: {KNOWN}",
    ),
    "another": (lambda: Compact(num_feat=4, num_conv=1).state_dict(), "a.pth", f"is of Compact: {KNOWN}"),
    "NaN": (
        lambda: esrgan(**{"conv_last.bias": torch.full((3,), torch.nan)}),
        "a.pth",
        "conv_last.bias has values that are not finite",
    ),
    "missing": (
        lambda: esrgan(**{"conv_hr.bias": None}),
        "a.pth",
        "looks like ESRGAN, but does not fit it: Error(s) in",
    ),
    "extra": (lambda: esrgan(**{"head.weight": torch.ones(7)}), "a.pth", "it is another network"),
    "shape": (lambda: esrgan(**{"conv_hr.bias": torch.ones(5)}), "a.pth", "looks like ESRGAN, but does not fit it"),
    "odd name": (
        lambda: network("NAFNet").state_dict() | {"encoders.x.y": torch.ones(1)},
        "a.pth",
        "looks like NAFNet",
    ),
    "grey": (grey, "a.pth", "maps 1 channels to 1, the tasks are in colour: name a file with 3 of each"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, file, words = BAD[name]
    line = refusal(convert, saved(content(), tmp_path / file), ["task=deblur" if name == "grey" else "task=sisr"])
    assert words in line
    assert line.startswith(str(tmp_path / file))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused(suffix: str, tmp_path: Path) -> None:
    file = saved(esrgan(), tmp_path / f"whole{suffix}")
    for content in (file.read_bytes()[:-1000], file.read_bytes()[:100], b"", b"no weights at all"):
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(content)
        assert "is damaged, or no checkpoint" in refusal(convert, broken, ["task=sisr"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_does_not(zipped: bool, tmp_path: Path, capsys: Any) -> None:
    marker, file = tmp_path / "ran", tmp_path / "a.pth"
    content = {"params_ema": esrgan(), "more": Running(os.system, f"touch '{marker}'")}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    arguments = ["import", "spandrel", str(file), "task=sisr", f"run_dir={tmp_path / 'run'}"]
    assert str(file) in command_refusal(arguments, capsys)
    assert not marker.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("ESRGAN", ["task=realsr", "task.scale=2"], "enlarges x4, task=realsr x2: write task.scale=4"),
        ("ESRGAN", ["task=deblur"], "enlarges x4, task=deblur x1: write task.scale=4"),
        ("ESRGAN-x2", ["task=sisr"], "enlarges x2, task=sisr x4: write task.scale=2"),
        ("NAFNet", ["task=sisr"], "enlarges x1, task=sisr x4: write task=deblur, or task.scale=1"),
        ("NAFNet", ["task=inpainting"], "sees no mask, and task=inpainting has holes: write the task"),
        ("LaMa", ["task=deblur"], "fills holes, and task=deblur has none: write task=inpainting"),
        ("MPRNet", ["task=depth"], "predicts images, task=depth depth: write the task it was trained for"),
        ("MPRNet", ["task=segmentation"], "predicts images, task=segmentation labels: write the task"),
        ("Restormer", ["task=deblur", "model=restormer"], "model=restormer: the network is that of the file"),
        ("Restormer", ["task=deblur", "method=diffi2i_s1"], "method=diffi2i_s1: the network is that of the file"),
        ("Restormer", ["task=deblur", "foo=1"], "unknown key 'foo'"),
    ],
)
def test_another_task_is_refused_in_one_line(
    name: str, overrides: list[str], words: str, lama: nn.Module, tmp_path: Path
) -> None:
    module = lama if name == "LaMa" else network(name)
    assert words in refusal(convert, saved(module.state_dict(), tmp_path / "a.pth"), overrides)


# --- the libraries --------------------


def python(code: str, cwd: Path) -> str:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_library_that_is_not_installed_is_named(run_dir: Path, images: Path, tmp_path: Path) -> None:
    file = run_dir.parent / "width4.safetensors"
    commands = {
        "import spandrel needs spandrel": ["import", "spandrel", str(file), "task=deblur", "run_dir=run"],
        "model.network=spandrel.architectures.NAFNet.NAFNet needs spandrel": [
            *["predict", f"run={run_dir}", f"input={images}", "output=out", "trainer=cpu"]
        ],
        "model.network=diffi2i.models.unet.DenoisingUNet needs diffusers": [
            *["train", "method=pixel_diffusion", "budget=smoke", "trainer=cpu", "run_dir=run"]
        ],
        "model.autoencoder=diffi2i.models.autoencoder.Autoencoder needs diffusers": [
            *["bench", "method=autoencoder", "budget=smoke", "trainer=cpu"]
        ],
    }
    code = f"""
import sys
sys.modules.update(spandrel=None, diffusers=None)
from diffi2i.cli import main
for command in {list(commands.values())}:
    sys.stderr = sys.stdout
    try:
        main(command)
    except SystemExit as error:
        assert error.code == 2
"""
    lines = python(code, tmp_path).splitlines()
    assert lines == [f"diffi2i: {words}: pip install 'diffi2i[peers]'" for words in commands]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_libraries_are_imported_by_what_uses_them_alone(tmp_path: Path) -> None:
    code = """
import sys
from diffi2i.cli import main
main(["--help"])
main(["train", "--help"])
main(["train", "--cfg", "job"])
main(["train", "--cfg", "job", "method=pixel_diffusion"])
try:
    main(["import", "diffir", "nowhere.pth", "run_dir=run"])
except SystemExit:
    pass
import diffi2i.commands.eval, diffi2i.commands.predict, diffi2i.commands.table, diffi2i.commands.train
import diffi2i.methods.imports.diffir
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.methods.build import new_method
new_method(load(Config, "train", ["method=diffir_s2", "model=diffir_tiny"]))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"spandrel", "spandrel_extra_arches", "diffusers"}))
"""
    assert python(code, tmp_path).splitlines()[-1] == "[]"
