"""What an error line says to write does help: each test writes it, as it stands there."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffi2i import cli
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from tests.refusals import refusal

Lines = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lines:
    """`check(*overrides)` gives the lines of `diffi2i data check` for tmp_path, `broken` before them where it fails."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> list[str]:
        broken = []
        try:
            cli.main(["data", "check", f"root={tmp_path}", "output=manifest.json", *overrides])
        except SystemExit:
            broken = ["broken"]
        return [*broken, *capsys.readouterr().out.splitlines()]

    return run


def pair(root: Path, name: str, target: Image.Image, shrink: int = 1, suffix: str = "") -> None:
    """A photo of its own, an input `shrink` times smaller, and its target."""
    (root / "input").mkdir(exist_ok=True)
    (root / "target").mkdir(exist_ok=True)
    seed = sum(name.encode())
    noise = np.random.default_rng(seed).integers(0, 256, (32 // shrink, 32 // shrink, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "input" / f"{name}{suffix}.png")
    target.save(root / "target" / f"{name}.png")


def advice(pattern: str, lines: list[str]) -> list[str]:
    """The settings that the first fitting line says to write."""
    return next(list(found.groups()) for line in lines if (found := re.search(pattern, line)))


def grey(value: int, dtype: str = "uint8") -> Image.Image:
    return Image.fromarray(np.full((32, 32), value, dtype))


def test_depth_goes_into_npy_files(tmp_path: Path, check: Lines) -> None:
    for name in "ab":
        pair(tmp_path, name, grey(200))
    lines = check("dataset=depth_pairs")
    advice(r"save it as 16-bit grey PNG, .* or as float32 (\.npy) in metres", lines)
    shutil.rmtree(tmp_path / "target")
    (tmp_path / "target").mkdir()
    for name in "ab":
        np.save(tmp_path / "target" / f"{name}.npy", np.full((32, 32), 2.5, np.float32))
    assert "depth: 2.5 / 2.5 / 2.5 m" in " ".join(check("dataset=depth_pairs"))


def test_a_label_that_is_no_class_is_ignored(tmp_path: Path, check: Lines) -> None:
    for name in "ab":
        pair(tmp_path, name, Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 32, 0).repeat(16, 1)))
    lines = check("dataset=label_pairs")
    assert lines[0] == "broken"
    lines = check("dataset=label_pairs", *advice(r"where it counts nowhere write (\S+),", lines))
    assert "ignored: 50.0 % of the pixels" in " ".join(lines)
    assert lines[0] != "broken"


@pytest.mark.parametrize(("task", "target"), [("segmentation", grey(1)), ("depth", grey(2000, "uint16"))])
def test_own_labels_and_depth_have_a_dataset(tmp_path: Path, task: str, target: Image.Image) -> None:
    for name in "ab":
        pair(tmp_path, name, target)
    given = [f"task={task}", "budget=smoke", f"root={tmp_path}"]
    said = refusal(load, Config, "train", [*given, "dataset=pairs"])
    (dataset,) = advice(r"write dataset= one of .* or (\w+) \(your own\)", [said])
    data = build_data(load(Config, "train", [*given, f"dataset={dataset}"]))
    data.check()
    data.setup("fit")
    assert data.val_set[0]["target"].shape[-2:] == (32, 32)


def test_names_with_more_around_them_pair(tmp_path: Path, check: Lines) -> None:
    for name in ("0801", "0802"):
        pair(tmp_path, name, grey(9), shrink=4, suffix="x4")
    lines = check("dataset=pairs")
    assert lines[0] == "broken"
    assert check("dataset=pairs", *advice(r"all would pair by their names: write (\S+)", lines))[0] != "broken"


def test_another_scale_may_be_written(tmp_path: Path) -> None:
    for name in "ab":
        pair(tmp_path, name, grey(9), shrink=2)
    given = ["task=sisr", "budget=smoke", f"root={tmp_path}", "dataset=pairs"]
    said = refusal(build_data(load(Config, "train", given)).check)
    (key,) = advice(r"or write (\S+)=<target over input>", [said])
    build_data(load(Config, "train", [*given, f"{key}=2"])).check()


def test_one_image_is_split_from_another_folder(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        grey(9).save(tmp_path / name / "1.png")
    given = ["task=sisr", "budget=smoke", "dataset=folder", f"root={tmp_path / 'a'}"]
    said = refusal(build_data(load(Config, "train", given)).check)
    (key,) = advice(r"or write (\S+)=<folder>", [said])
    build_data(load(Config, "train", [*given, f"{key}={tmp_path / 'b'}"])).check()
    said = refusal(build_data(load(Config, "train", [*given, f"{key}={tmp_path}"])).check)
    (setting,) = advice(r"or write (\S+=null) to hold out", [said])
    build_data(load(Config, "train", [*given[:-1], f"root={tmp_path}", setting])).check()
