"""CONTRIBUTING.md's worked examples, as they stand on the page, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffi2i.run.record import Record
from tests.conftest import SMALL_METHODS
from tests.places import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
# A file's name, perhaps where in it, then its text.
BLOCK = re.compile(r"^`([^`\n]+)`(?:, ([^\n]+))?\n\n```\w+\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^    (diffi2i .+)$", re.M)
NEUTRAL = " trainer=cpu trainer.precision=fp32 logger=none dataset.max_val_images=1"
SMALL = f" model.cpen.channels=4 model.cpen.blocks=1{NEUTRAL}"


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[titles().index(title) + 1]


def titles() -> list[str]:
    return re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "conf", "experiments"):
        # With what Python has compiled, which holds for copies of the same age.
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("results"))
    return folder


def write(checkout: Path, title: str) -> list[str]:
    """Puts a section's blocks where it says. Returns the files that it touches."""
    files = []
    for name, place, text in BLOCK.findall(section(title)):
        file = checkout / name
        files.append(name)
        if place == "at the end":
            file.write_text(f"{file.read_text()}\n\n{text}")
        elif place:
            (table,) = re.findall(r"in `(\w+)`", place)
            before, start, after = file.read_text().partition(f"{table} = by_key(\n")
            assert start
            file.write_text(before + start + text + after)
        else:
            assert not file.exists()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return files


EXAMPLES = ("Add a method", "Add a process", "Add a dataset", "Add a score", "Add a task")


@pytest.fixture(scope="module")
def touched(checkout: Path) -> dict[str, list[str]]:
    """The files that each section adds or changes, all in one copy."""
    return {title: write(checkout, title) for title in EXAMPLES}


@pytest.fixture(scope="module")
def printed(checkout: Path, touched: dict[str, list[str]]) -> str:
    """What the page's commands print, and two more that use what it adds: in one process, which takes long to start."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for kind in ("sharp", "soft"):
            folder = checkout / "portraits" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number:04}.png")
    method, process, dataset, score, task = (COMMAND.findall(section(title))[0] for title in EXAMPLES)
    commands = [
        method + SMALL,
        f"{process} {' '.join(SMALL_METHODS['resshift'])}{NEUTRAL}",
        "diffi2i table table3 budget=smoke --dry-run",
        dataset.replace("<folder>", "portraits"),
        "diffi2i train task=deblur dataset=portraits root=portraits budget=smoke train.val_crop=null" + SMALL,
        score + SMALL + " train.val_crop=192",
        task + SMALL,
    ]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    code = "import sys; from diffi2i.cli import main; [main(command.split()[1:]) for command in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", code, *commands],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record_of(checkout: Path, run: str) -> Record:
    return Record.read(checkout / "runs" / run)


def test_a_method_is_two_files_and_a_row_is_one(checkout: Path, touched: dict[str, list[str]], printed: str) -> None:
    assert [Path(file).parts[0] for file in touched["Add a method"]] == ["src", "conf", "experiments"]
    record = record_of(checkout, "unsharp")
    assert record.method
    assert (record.method.name, record.method.options["sigma"]) == ("unsharp", 1.0)
    assert record.cost
    assert record.cost.parameters == 1
    assert "table3 (unsharp)" in printed


@pytest.mark.usefixtures("printed")
def test_a_process_is_two_files(checkout: Path, touched: dict[str, list[str]]) -> None:
    assert touched["Add a process"] == ["src/diffi2i/methods/straight.py", "conf/method/straight.yaml"]
    record = record_of(checkout, "straight")
    assert record.cost
    assert record.cost.calls == 5


@pytest.mark.usefixtures("printed")
def test_a_dataset_is_one_file(checkout: Path, touched: dict[str, list[str]]) -> None:
    assert touched["Add a dataset"] == ["conf/dataset/portraits.yaml"]
    assert [*checkout.glob("outputs/runs/smoke/deblur-*/result.json")]


@pytest.mark.usefixtures("printed")
def test_a_score_is_one_entry_and_its_function(checkout: Path, touched: dict[str, list[str]]) -> None:
    assert touched["Add a score"] == ["src/diffi2i/metrics/spec.py", "src/diffi2i/metrics/ms_ssim.py"]
    score = record_of(checkout, "scored").scores["ms_ssim"]
    assert score.value is not None
    assert 0 < score.value < 1


@pytest.mark.usefixtures("printed")
def test_a_task_is_one_file_and_a_degradation(checkout: Path, touched: dict[str, list[str]]) -> None:
    assert touched["Add a task"] == ["src/diffi2i/data/degrade.py", "conf/task/colour.yaml"]
    record = record_of(checkout, "colour")
    assert record.task == "colour"
    assert record.scores["psnr"].value is not None
