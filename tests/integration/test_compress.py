"""Depth-skip pruning and the search for depth and time steps, as a user would: found, fine-tuned, scored, used."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffi2i import cli
from diffi2i.commands import train
from diffi2i.commands.bench import bench
from diffi2i.commands.compress import compress, training_crops
from diffi2i.config.commands import BenchConfig, CompressConfig
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.methods.build import check
from diffi2i.run.directory import load_method, write_config
from diffi2i.run.plan import planned
from tests.conftest import Make, small
from tests.refusals import refusal
from tests.runs import result, weights
from tests.settings import CPU

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
DIFFUSION = ("method=pixel_diffusion", "train.steps=2")
WHOLE = 5  # skips and the middle of the small U-Net


@pytest.fixture(scope="module")
def pixel(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compress") / "pixel"
    return train.train(
        load(Config, "train", [*small("sisr", images, "pixel_diffusion"), *DIFFUSION, f"run_dir={place}"])
    )


@pytest.fixture(scope="module")
def prior(images: Path, stage1_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compress") / "s2"
    words = [*small("sisr", images, "diffi2i_s2"), f"method.init={stage1_once}", "train.steps=2", f"run_dir={place}"]
    return train.train(load(Config, "train", words))


def found(run: Path, output: Path, **settings: Any) -> Any:
    folder = compress(CompressConfig(run=str(run), output=str(output), trainer=CPU, **({"images": 2} | settings)))
    return json.loads((folder / "compress.json").read_text())


def test_a_diffusion_is_searched_on_its_training_images(
    pixel: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"threshold": 1.0, "steps": 2}
    made = found(pixel, tmp_path / "found", **settings)
    printed = capsys.readouterr().out
    rows = made["trials"]
    assert [row["depth"] for row in rows] == [*range(WHOLE, 0, -1), WHOLE, 1]
    assert [row["calls"] for row in rows] == [4] * WHOLE + [2, 2]
    assert made["depth"] == 1
    for key in ("parameters", "macs"):
        sizes = [row[key] for row in rows[:WHOLE]]
        assert sizes == sorted(set(sizes), reverse=True)
    assert [row["psnr"] for row in rows[:1]] == ["inf"]
    assert made["steps"] == max(made["time_steps"], key=lambda each: each["psnr"])["steps"]
    assert [each["gamma"] for each in made["time_steps"][:3]] == [1.0, 1.1, 1 / 1.1]

    # The agreement is that of outputs on training crops, here once more.
    method, smaller = load_method(pixel), load_method(pixel)
    crops = training_crops(method.config, CompressConfig(run=str(pixel), images=2))
    held_out = {Path(str(item.target)).stem for item in build_data(method.config).val_items}
    assert not {Path(name).stem for crop in crops for name in crop["name"]} & held_out
    smaller.network.keep(3)  # type: ignore[operator, union-attr]
    values = []
    for batch in crops:
        with torch.no_grad():
            ours, theirs = (each.eval().predict(batch, each.noise(batch)).clamp(0, 1) for each in (smaller, method))
        values.append(-10 * (ours - theirs).double().square().mean().log10())
    assert rows[WHOLE - 3]["psnr"] == pytest.approx(float(sum(values)) / 2, abs=1e-3)

    # The last two lines are commands.
    tune, score = printed.strip().splitlines()[-2:]
    own = [f"run_dir={tmp_path / 'tuned'}", "train.steps=1", "trainer=cpu", "trainer.precision=fp32", "logger=none"]
    own += ["dataset.source.val_fraction=0.2", "task.protocol.metrics=[psnr,psnr_y]", "train.batch=2", "train.patch=32"]
    cli.main([*shlex.split(tune)[1:], *own])
    cli.main([*shlex.split(score)[1:], "trainer=cpu", f"output={tmp_path / 'scored'}"])
    tuned, scored = result(tmp_path / "tuned"), result(tmp_path / "scored")
    assert (tuned.method.label, tuned.training.network_steps) == ("pixel_diffusion, depth 1", 3)
    assert tuned.cost.parameters == rows[WHOLE - 1]["parameters"]
    assert scored.cost.calls == 2
    again = found(tmp_path / "tuned", tmp_path / "steps", **settings)  # of which no depth is left to search
    assert [row["depth"] for row in again["trials"]] == [1, 1]


def test_a_prior_is_tried_at_all_subsets_of_its_time_steps(prior: Path, tmp_path: Path) -> None:
    made = found(prior, tmp_path / "found", threshold=1.0)
    assert [len(each["steps"]) for each in made["time_steps"]] == [1, 2, 2, 2, 3, 3, 3, 4]
    assert made["time_steps"][-1] == {"gamma": None, "steps": [1, 2, 3, 4], "psnr": "inf"}
    assert made["steps"] == [4]  # the fewest that meet the threshold
    assert [row["depth"] for row in made["trials"]] == [4, 3, 2, 1, 4, 1]
    few = found(prior, tmp_path / "few", threshold=None, steps=2)
    assert [len(each["steps"]) for each in few["time_steps"]] == [1, 2, 2, 2]
    assert few["depth"] == 4


def test_what_cannot_be_searched_is_refused(pixel: Path, stage1: Path, images: Path, tmp_path: Path) -> None:
    def refused(run: Path = pixel, **settings: Any) -> str:
        return refusal(lambda: found(run, tmp_path / "no", **settings))

    assert "threshold=500: no depth meets it, the deepest, 4, is at " in refused(threshold=500.0, steps=2)
    assert "steps=4: the run takes 4 as it is, write fewer, or steps=null" in refused(steps=4)
    assert "nothing is to be searched" in refused(steps=None, threshold=None)
    assert "has neither a depth nor time steps" in refused(stage1, threshold=None)
    assert "bias=1.5 lies in [0, 1)" in refused(bias=1.5)
    assert "root=nowhere is not a folder" in refused(root="nowhere", steps=2)
    assert not (tmp_path / "no").exists()
    config = CompressConfig(run=str(pixel), output=str(stage1), steps=2)
    assert "is a run: name another folder" in refusal(compress, config)


def test_a_pruned_run_is_scored_as_it_is_or_trained_on(make: Make, prior: Path, pixel: Path, tmp_path: Path) -> None:
    skip = ("method=depth_skip", f"method.init={prior}")
    as_it_is = train.train(make("as-it-is", *skip, "method.depth=2", "train.steps=0"))
    whole = load_method(prior)
    whole.network.keep(2)  # type: ignore[operator, union-attr]
    expected = whole.state_dict()
    kept = weights(as_it_is)
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[key], expected[key]) for key in kept)
    record, before = result(as_it_is), result(prior)
    assert (record.method.name, record.method.label) == (before.method.name, f"{before.method.label}, depth 2")
    assert (record.training.steps, record.training.network_steps) == (0, before.training.network_steps)
    assert record.cost.parameters < before.cost.parameters
    assert record.method.options == before.method.options

    tuned = train.train(make("tuned", *skip, "method.depth=2", "train.steps=2"))
    assert result(tuned).training.network_steps == before.training.network_steps + 2
    moved = weights(tuned)
    assert kept.keys() == moved.keys()
    assert not torch.equal(kept["network.embed.weight"], moved["network.embed.weight"])
    # It starts from one that has been pruned before, too, and a run of its method goes on from it.
    deeper = make("deeper", "method=depth_skip", f"method.init={tuned}", "method.depth=3")
    assert refusal(check, deeper) == f"method.depth=3: method.init={tuned} has depth 2: write less"
    least = train.train(make("least", "method=depth_skip", f"method.init={tuned}", "method.depth=1", "train.steps=0"))
    assert result(least).cost.parameters < record.cost.parameters
    on = ("method=diffi2i_s2", f"method.init={tuned}", "train.steps=1")
    assert refusal(check, make("on", *on)).endswith("write +model.network.depth=2")
    assert result(train.train(make("on", *on, "+model.network.depth=2"))).method.label.endswith(", depth 2")


def test_a_row_is_planned_as_what_it_will_be(prior: Path) -> None:
    run = planned(["experiment=neighbours1/depth4", "budget=smoke", "dataset=photos"])
    assert run.before is not None
    assert run.config.method == run.before.config.method | {"init": str(run.before.directory), "role": "continued"}
    assert run.config.model.network == run.before.config.model.network | {"depth": 4}
    assert run.config.train == replace(run.before.config.train, steps=182)
    as_it_is = planned(["experiment=neighbours1/depth4-as-it-is", "budget=smoke", "dataset=photos"])
    assert as_it_is.config.train.steps == 0
    # What was planned is what is trained, so that its record is found to be its own.
    given = ["method=depth_skip", f"method.init={prior}", "method.depth=2", "task=sisr"]
    assert planned(given).config.method["name"] == "diffi2i_s2"


def test_depths_that_cannot_be_are_refused(make: Make, pixel: Path, tmp_path: Path) -> None:
    skip = "method=depth_skip"
    start = f"method.init={pixel}"
    regressor = tmp_path / "regressor"
    regressor.mkdir()
    write_config(regressor, load(Config, "train", ["task=sisr", "method=regressor", "model=nafnet_tiny"]))
    (regressor / "result.json").touch()
    for overrides, words in {
        (): "method=depth_skip needs a finished run: write method.init=",
        (start,): f"method.depth is missing: diffi2i compress run={pixel} searches for one",
        (start, "method.depth=9"): "depth=9 does not fit a network of depth 5: write 1 to 4",
        (start, "method.depth=0"): "depth=0 does not fit a network of depth 5",
        (start, "method.depth=half"): "method.depth: value 'half' of type 'str' could not be converted",
        (f"method.init={tmp_path}", "method.depth=1"): "is no run directory",
        (f"method.init={regressor}", "method.depth=1"): "has a NAFNet, which has no depth: name a run of a U-shaped",
    }.items():
        assert words in refusal(check, make("no", skip, *overrides)), overrides
    assert "train.steps=0 trains nothing" in refusal(lambda: make("no", "train.steps=0"))
    assert "train.steps=-1 must be above 0" in refusal(lambda: make("no", "train.steps=-1"))
    unfit = refusal(bench, BenchConfig(overrides=["task=sisr", skip], size="32", trainer=CPU, output=str(tmp_path)))
    assert unfit.startswith("method=depth_skip is the method of the run that it starts from")
