"""Nothing is written outside the folder that was named, and nothing of the user's is replaced."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffi2i import cli
from diffi2i.callbacks.panels import Pictures
from diffi2i.commands.compare import compare
from diffi2i.commands.train import train
from diffi2i.config import compose
from diffi2i.config.commands import CompareConfig
from diffi2i.config.schema import Config, DatasetConfig
from diffi2i.data.outputs import targets_for
from diffi2i.data.sources import listed
from diffi2i.files import inside, json_output
from diffi2i.run.plan import planned
from diffi2i.run.tracking import build_logger
from tests.conftest import small
from tests.listed import make
from tests.refusals import command_refusal, refusal
from tests.settings import task_config


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of the user's, and a folder `out` with links to it and to its folder, and one within."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.png").write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").symlink_to(tmp_path / "mine" / "file.png")
    (out / "new.png").symlink_to(tmp_path / "mine" / "new.png")
    (out / "sub").symlink_to(tmp_path / "mine")
    (out / "circle").symlink_to("circle")
    (out / "within").symlink_to("b.png")
    return tmp_path / "mine" / "file.png"


def untouched(outside: Path) -> bool:
    return outside.read_bytes() == b"mine" and len([*outside.parent.iterdir()]) == 1


def test_a_path_stays_inside_its_folder(tmp_path: Path, outside: Path) -> None:
    out = tmp_path / "out"
    for name in ("a.png", "new.png", "sub/x.png", "circle", "../x.png", "sub/../../x", "/etc/x", "b/../../x", ".\0"):
        assert "leads out of" in refusal(inside, out, name)
    for name in ("b.png", "b/c.png", "within", "b/../c.png", "..x", ".hidden"):
        assert inside(out, name) == out / name
    (tmp_path / "link").symlink_to(out)
    assert inside(tmp_path / "link", "b.png") == tmp_path / "link" / "b.png"  # the folder itself may be a link


def test_pictures_stay_inside(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "out" / "c_input.png").symlink_to(outside)
    image = torch.zeros(3, 4, 4)
    for name in ("../x", "sub/x", "c", str(tmp_path / "x")):
        assert "leads out of" in refusal(Pictures(tmp_path / "out").add, name, image, image, image, image)
    assert untouched(outside)
    assert [file.name for file in tmp_path.glob("*.png")] == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "a\\b", "a\0b"])
def test_what_becomes_a_folders_name_is_no_path(name: str) -> None:
    assert "becomes a folder's name" in refusal(lambda: DatasetConfig(name=name, source={}))
    assert "becomes a folder's name" in refusal(lambda: task_config(name=name))


def test_a_logger_writes_into_the_run(tmp_path: Path) -> None:
    config = compose.load(Config, "train", ["logger.name=../elsewhere"])
    assert "leads out of" in refusal(build_logger, config, tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("command", ["train", "import"])
def test_another_programs_folder_is_no_run_directory(
    command: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine := tmp_path / "config.yaml").write_text("mine: 1\n")
    words = [*small("deblur", images, "regressor")] if command == "train" else ["diffir", __file__, "task=deblur"]
    line = command_refusal([command, *words, f"run_dir={tmp_path}"], capsys)
    assert str(tmp_path) in line
    assert mine.read_text() == "mine: 1\n"
    assert [*tmp_path.iterdir()] == [mine]


def test_a_list_stays_below_its_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "a.png", "b.png")
    make(tmp_path, "c.png")
    for paired, line in ((False, "../c.png"), (False, "/../c.png"), (True, "a.png ../c.png"), (True, "../c.png a.png")):
        (root / "list.txt").write_text(f"{'b.png b.png' if paired else 'b.png'}\n{line}\n")
        refused = refusal(lambda: listed("val", root, val="list.txt", paired=paired))  # noqa: B023
        assert "list.txt, line 2: " in refused
        assert "leads out of" in refused


EMPTY = {
    "train": ["run_dir", "root", "method.init", "dataset.source.root", "budget", "seed", "dataset.name"],
    "eval": ["run", "output", "root"],
    "predict": ["run", "input", "output", "mask"],
    "score": ["pred", "target", "mask", "input", "output"],
    "bench": ["output"],
    "data": ["output", "root"],
    "table": ["roots.set14", "imports.table3.esrgan", "launcher", "root"],
    "compare": ["output"],
    "report": ["output"],
    "dashboard": ["output", "project"],
    "import": ["run_dir"],
}
WORDS = {
    "train": ["dataset=folder", "budget=smoke"],
    "eval": ["run=x", "dataset=folder"],
    "predict": ["run=x", "input=x", "output=x"],
    "score": ["task=inpainting", "pred=x", "target=x"],
    "bench": [],
    "data": ["check", "dataset=folder"],
    "table": ["table3", "budget=smoke", "--dry-run"],
    "compare": ["x", "y"],
    "report": [],
    "dashboard": [],
    "import": ["diffir", "x.pth", "run_dir=x", "task=sisr"],
}


@pytest.mark.parametrize("command", EMPTY)
def test_a_variable_that_is_not_set_is_no_path(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in EMPTY[command]:
        written = (f"{key}=", f"{key}= ", f"{key}=''") if key == "output" else (f"{key}=",)
        for text in written:
            line = command_refusal([command, *WORDS[command], text], capsys)
            assert key.rpartition(".")[2] in line
    assert [*tmp_path.iterdir()] == []


def test_empty_words_and_seeds_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "runs[0] is empty" in command_refusal(["compare", "", "x"], capsys)
    assert "names[0] is empty" in command_refusal(["table", ""], capsys)
    assert "output is empty (a shell variable that is not set?)" in command_refusal(["bench", "output="], capsys)
    for seed in ("", "abc", "1.5"):
        assert "seed: " in refusal(planned, ["task=sisr", f"seed={seed}"])


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that predicts."""
    place = tmp_path_factory.mktemp("run") / "run"
    return train(compose.load(Config, "train", [*small("deblur", images, "regressor"), f"run_dir={place}"]))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture, and the names under which it also lies elsewhere."""
    folder = make(tmp_path / "photos", "a.png", "b.jpg")
    for name in ("hard", "soft"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "hard" / "a.png").hardlink_to(folder / "a.png")
    (tmp_path / "soft" / "a.png").symlink_to(folder / "a.png")
    monkeypatch.chdir(folder)
    return folder


def predicting(run: Path, source: str | Path, output: str | Path) -> list[str]:
    return ["predict", f"run={run}", f"input={source}", f"output={output}", "trainer=cpu", "trainer.precision=fp32"]


@pytest.mark.parametrize(
    ("source", "output"),
    [
        (".", "."),
        (".", "../photos/"),
        (".", "../linked"),
        ("../linked", "."),
        ("../linked", "../linked"),
        (".", "../hard"),
        (".", "../soft"),
        ("a.png", "."),
        ("a.png", "a.png"),
        ("a.png", "../hard/a.png"),
        ("a.png", "../soft/a.png"),
        ("b.jpg", "b.jpg"),
        (".", "a.png"),
        (".", "a.png/sub"),
        (".", "there.txt/sub"),
    ],
)
def test_predict_replaces_no_original(
    source: str, output: str, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "there.txt").write_text("mine")
    before = {file: file.read_bytes() for file in photos.iterdir()}
    assert "output" in command_refusal(predicting(run, source, output), capsys)
    assert {file: file.read_bytes() for file in photos.iterdir()} == before


def test_predict_replaces_neither_masks_nor_what_lies_beside(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").write_bytes(b"mine")
    assert "would replace b.png" in command_refusal(predicting(run, "b.jpg", "."), capsys)
    masks = make(photos / "masks", "b.png") / "b.png"
    read = [photos / "b.jpg", masks]
    assert f"would replace {masks}" in refusal(targets_for, {"b": "b.png"}, Path("b.jpg"), read, Path("masks"))


def test_predict_writes_through_no_link(run: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(outside.parents[1] / "photos", "a.png")
    out = outside.parents[1] / "out"
    for source, output in ((folder, out), (folder / "a.png", out / "new.png")):
        assert "leads out of" in command_refusal(predicting(run, source, output), capsys)
    assert untouched(outside)


def test_predict_writes_the_file_that_is_named(run: Path, photos: Path) -> None:
    cli.main(predicting(run, "a.png", "new/out.png"))
    cli.main(predicting(run, "a.png", "new"))
    cli.main(predicting(run, "a.png", "new/out.png"))  # which is there, and passed over
    assert sorted(file.name for file in (photos / "new").glob("[!.]*")) == ["a.png", "out.png"]
    with Image.open(photos / "new" / "out.png") as written:
        assert written.size == (4, 4)


def test_eval_writes_into_no_other_run_and_through_no_link(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = (run / "result.json").read_bytes()
    evaluated = ["eval", f"run={run}", "trainer=cpu"]
    assert "is a run" in command_refusal([*evaluated, f"output={run}"], capsys)
    assert (run / "result.json").read_bytes() == record
    strange = shutil.copytree(run, tmp_path / "strange")
    (tmp_path / "mine").mkdir()
    (strange / "eval").symlink_to(tmp_path / "mine")
    assert "leads out of" in command_refusal(["eval", f"run={strange}", "trainer=cpu"], capsys)
    for place in ("images", "panel.png"):
        (out := tmp_path / f"out-{place}").mkdir()
        (out / place).symlink_to(tmp_path / "mine")
        assert "leads out of" in command_refusal([*evaluated, f"output={out}"], capsys)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".locks").symlink_to(tmp_path / "mine")
    assert "leads out of" in command_refusal([*evaluated, f"output={tmp_path / 'locked' / 'out'}"], capsys)
    assert [*(tmp_path / "mine").iterdir()] == []


def test_a_file_of_scores_is_no_runs_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").touch()
    assert "is the record of a run" in refusal(json_output, str(tmp_path / "result.json"))
    assert json_output(str(tmp_path / "scores.json")) == tmp_path / "scores.json"
    one, other = str(tmp_path / "one.json"), f"{tmp_path}/x/../one.json"
    for output in (one, other):
        (tmp_path / "x").mkdir(exist_ok=True)
        line = refusal(compare, CompareConfig(runs=[one, "two.json"], output=output))
        assert "is one of the two" in line
