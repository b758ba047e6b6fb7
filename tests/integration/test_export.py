"""`diffi2i export`: folders that are runs, without this machine's paths, and networks that compute the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffi2i
from diffi2i import cli
from diffi2i.commands import train
from diffi2i.config.schema import TrainerConfig
from diffi2i.data.images import read_image
from diffi2i.data.sources import photos
from tests.conftest import Make
from tests.refusals import command_refusal

CPU = TrainerConfig(accelerator="cpu", precision="fp32", threads=1)


@pytest.fixture
def stage2(make: Make, stage1: Path) -> Path:
    return train.train(make("s2", "method=diffi2i_s2", f"method.init={stage1}"))


def exporting(run: Path, output: Path, *words: str) -> list[str]:
    return ["export", f"run={run}", f"output={output}", *words]


def test_an_export_is_a_run_without_the_paths_of_this_machine(
    stage2: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(exporting(stage2, tmp_path / "shared"))
    files = {file.name: file.read_bytes() for file in (tmp_path / "shared").iterdir()}
    assert set(files) == {"README.md", "config.yaml", "result.json", "weights.safetensors"}
    private = [str(tmp_path), str(images), str(Path.home()), "image0"]  # the last: what images are called
    assert [word for word in private for content in files.values() if word.encode() in content] == []
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    ours, theirs = (diffi2i.load(run, trainer=CPU)(pixels) for run in (stage2, tmp_path / "shared"))
    assert (ours == theirs).all()
    scored = [
        f"dataset=folder root={images}",
        "dataset.source.val_fraction=0.2",
        "trainer=cpu",
        "trainer.precision=fp32",
    ]
    words = [word for text in scored for word in text.split()]
    for run in (stage2, tmp_path / "shared"):
        cli.main(["eval", f"run={run}", *words, f"output={tmp_path / run.name}-eval"])
    records = [json.loads((tmp_path / f"{name}-eval" / "result.json").read_text()) for name in ("s2", "shared")]
    assert records[0]["scores"] == records[1]["scores"]
    said = files["README.md"].decode()
    value = records[0]["scores"]["psnr_y"]
    assert value["n"] > 0
    assert "| PSNR-Y ↑ | " in said
    assert "seed 0" in said
    cli.main(exporting(stage2, tmp_path / "shared"))  # an export may be made anew
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"x")
    assert "holds no export" in command_refusal(exporting(stage2, tmp_path / "mine"), capsys)
    assert "holds no export" in command_refusal(exporting(stage2, stage2), capsys)


def test_weights_and_configuration_alone_are_enough(stage2: Path, images: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "weights.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((stage2 / name).read_bytes())
    cli.main(
        ["predict", f"run={tmp_path / 'bare'}", f"input={images / 'image00.png'}", f"output={tmp_path / 'out.png'}"]
    )
    words = ["dataset=folder", f"root={images}", "dataset.source.val_fraction=0.2", "trainer=cpu"]
    cli.main(["eval", f"run={tmp_path / 'bare'}", *words, f"output={tmp_path / 'bare-eval'}"])
    assert (tmp_path / "bare-eval" / "result.json").is_file()


@pytest.mark.parametrize(
    "task",
    ["sisr", pytest.param("inpainting", marks=pytest.mark.long)],
)
def test_onnx_computes_what_torch_computes_at_any_size(make: Make, tmp_path: Path, task: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    first = train.train(make("first", f"task={task}"))
    run = train.train(make("second", f"task={task}", "method=diffi2i_s2", f"method.init={first}"))
    cli.main(exporting(run, tmp_path / "onnx", "format=onnx", f"quantise={str(task == 'sisr').lower()}"))
    restorer = diffi2i.load(run, trainer=CPU)
    image = read_image(Path(photos("val")[1].target))[..., :72, :136]
    mask = torch.zeros(1, 1, 72, 136)
    mask[..., 10:30, 20:90] = 1
    noise = torch.randn(1, restorer.method.config.model.prior_dim)
    batch: Any = {"input": image * (1 - mask), "mask": mask} if task == "inpainting" else {"input": image}
    with torch.no_grad():
        ours = restorer.method.predict(batch | {"name": ["a"]}, lambda *_: noise)
    ours = torch.where(mask > 0, ours, image) if task == "inpainting" else ours
    inputs = {"image": image, "noise": noise} | ({"mask": mask} if task == "inpainting" else {})
    for file in sorted((tmp_path / "onnx").glob("*.onnx")):
        session = onnxruntime.InferenceSession(file)
        (theirs,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        worst = np.abs(theirs - ours.numpy()).max()
        assert worst < (1e-3 if "int8" not in file.name else 0.2)
    said = (tmp_path / "onnx" / "README.md").read_text()
    assert "away from torch's" in said
    assert ("model.int8.onnx" in said) == (task == "sisr")


def test_torch_export(make: Make, tmp_path: Path) -> None:
    run = train.train(make("plain", "method=regressor"))
    cli.main(exporting(run, tmp_path / "pt2", "format=torch_export"))
    program = torch.export.load(tmp_path / "pt2" / "model.pt2").module()
    image = torch.rand(1, 3, 40, 24)
    with torch.no_grad():
        ours = diffi2i.load(run, trainer=CPU).method.predict({"input": image, "name": [""]}, lambda *_: torch.zeros(0))
    torch.testing.assert_close(program(image=image), ours)


def test_what_cannot_be_exported(
    make: Make, stage1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train.train(make("pixel", "task=deblur", "method=pixel_diffusion"))
    assert "makes several passes" in command_refusal(exporting(run, tmp_path / "a", "format=onnx"), capsys)
    assert "needs the ground truth" in command_refusal(exporting(stage1, tmp_path / "b", "format=torch_export"), capsys)
    assert "belongs to format=onnx" in command_refusal(exporting(run, tmp_path / "c", "quantise=true"), capsys)
    assert "choose one of" in command_refusal(exporting(run, tmp_path / "d", "format=tflite"), capsys)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'diffi2i[export]'" in command_refusal(exporting(run, tmp_path / "e", "format=onnx"), capsys)
    assert not any((tmp_path / name).exists() for name in "abcde")
