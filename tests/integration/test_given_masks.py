"""`diffi2i eval` on given masks: bit for bit as on drawn ones that are equal, and refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffi2i import cli
from diffi2i.commands.train import train
from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.data.images import read_size
from diffi2i.run.record import Record
from tests.conftest import small
from tests.refusals import command_refusal

ON_CPU = ("trainer=cpu", "trainer.precision=fp32", "trainer.threads=1")
WHOLE = "set=[train.val_crop=null,train.val_crops=1]"


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "run"
    return train(compose.load(Config, "train", [*small("inpainting", images, "regressor"), f"run_dir={place}"]))


@pytest.fixture(scope="module")
def masks(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those that the run draws by itself."""
    place = tmp_path_factory.mktemp("masks") / "masks"
    cli.main(["data", "prepare", "masks", f"input={images}", f"output={place}", "masks=[wide,narrow]"])
    return place


def evaluating(run: Path, images: Path, output: Path, *words: str) -> list[str]:
    return ["eval", f"run={run}", "dataset=folder", f"root={images}", f"output={output}", *ON_CPU, *words]


def test_given_masks_score_as_drawn_ones_that_are_equal(run: Path, images: Path, masks: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    cli.main(["data", "prepare", "masks", f"input={images}", f"output={other}", "masks=[wide,narrow]", "seed=1"])
    found = {}
    for name, words in {"drawn": [], "given": [f"mask={masks}"], "other": [f"mask={other}"]}.items():
        cli.main(evaluating(run, images, tmp_path / name, WHOLE, *words))
        found[name] = Record.read(tmp_path / name)
    drawn, given, another = found.values()
    assert (given.scores, given.images, given.baseline_images) == (drawn.scores, drawn.images, drawn.baseline_images)
    assert len(given.images) == 12
    assert given.data.inputs == drawn.data.inputs
    assert given.data.val == drawn.data.val
    assert (drawn.data.masks, given.data.degrade) == (None, None)
    assert given.data.masks
    assert given.comparable(drawn) is None
    assert drawn.comparable(given) is None
    assert another.images != drawn.images
    assert another.data.masks not in (None, given.data.masks)
    assert another.comparable(given) == drawn.comparable(another) == "their masks are different"
    for file in (tmp_path / "drawn" / "images").iterdir():
        assert file.read_bytes() == (tmp_path / "given" / "images" / file.name).read_bytes()


def test_the_runs_own_images_have_masks_too(run: Path, masks: Path, tmp_path: Path) -> None:
    cli.main(["eval", f"run={run}", f"mask={masks}", f"output={tmp_path / 'own'}", WHOLE, *ON_CPU])
    record = Record.read(tmp_path / "own")
    assert len(record.images) == 2
    assert record.data.masks
    assert record.data.crop is None


def test_masks_that_do_not_fit_are_refused_before_any_work(
    run: Path, stage1: Path, images: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path | str, *words: str, of: Path = run) -> str:
        return command_refusal(evaluating(of, images, tmp_path / "out", f"mask={folder}", *words), capsys)

    assert "scored on crops of 32 pixels: write set=[train.val_crop=null,train.val_crops=1] too" in refused(masks)
    assert "is not an inpainting run: leave out mask" in refused(masks, of=stage1)
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in masks.glob("*.png"):
        (mine / file.name).write_bytes(file.read_bytes())
    last = mine / "image11.png"
    last.unlink()
    assert f"{mine} has no mask for image11: give it the image's name" in refused(mine, WHOLE)
    height, width = read_size(images / "image11.png")
    for pixels, said in (
        (np.eye(height, width + 1), f"image11.png is {width + 1}x{height}, its image {images}/image11.png is {width}x"),
        (np.zeros((height, width)), "the mask has no hole"),
        (np.full((height, width), 0.5), "too much grey for a mask"),
    ):
        Image.fromarray((255 * pixels).astype(np.uint8)).save(last)
        assert said in refused(mine, WHOLE)
    assert "no such file or folder" in refused(tmp_path / "nowhere", WHOLE)
    assert not (tmp_path / "out").exists()
    inverted = np.asarray(Image.open(masks / "image11.png")) < 128
    Image.fromarray((255 * inverted).astype(np.uint8)).save(last)
    with pytest.warns(UserWarning, match="if white marks what to keep, invert the mask"):
        cli.main(evaluating(run, images, tmp_path / "inverted", f"mask={mine}", WHOLE))
