"""Loggers: what an offline W&B run holds, read back from its files, and that tracking never costs a training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from diffi2i.callbacks.panels import GAP, HEADER, thumbnail
from diffi2i.callbacks.showcase import Showcase, chosen_images
from diffi2i.commands import train
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.run import wandb_run
from diffi2i.run.provenance import git_commit
from tests import wandb_files
from tests.conftest import Make, small
from tests.interruption import InterruptedRunError, stop_before_step
from tests.runs import result, weights

SISR = ("psnr", "psnr_y", "ssim", "ssim_y")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: Any, tmp_path: Path) -> None:
    wandb_files.forget_key(monkeypatch, tmp_path)


def parts(run_dir: Path) -> list[wandb_files.Run]:
    return [wandb_files.read(folder) for folder in wandb_files.parts(run_dir)]


def media(run_dir: Path, row: dict[str, Any], key: str) -> list[Path]:
    """The files of a key's pictures, of a run in one part."""
    folder = wandb_files.parts(run_dir)[0] / "files"
    return [folder / name for name in row[f"{key}.filenames"]]


def saved(run_dir: Path, name: str, role: str) -> Image.Image:
    """A picture that the final evaluation left in the run directory, as panels show it."""
    return thumbnail(Image.open(run_dir / "images" / f"{name}_{role}.png").convert("RGB"))


@pytest.fixture(scope="module")
def stages(images: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """A stage 1 and a stage 2, both tracked, and a stage 1 that is not."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, *overrides: str) -> Path:
        settings = [*small("sisr", images), f"run_dir={folder / name}", *overrides]
        return train.train(load(Config, "train", settings))

    with pytest.MonkeyPatch.context() as patch:
        wandb_files.forget_key(patch, folder)
        stage1 = run("stage1", "logger=wandb", "logger.panels=[image09]")
        joint = ("method=diffi2i_s2", f"method.init={stage1}", "logger.group=table7", "logger.job_type=v3")
        return {"stage1": stage1, "stage2": run("stage2", "logger=wandb", *joint), "plain": run("plain")}


def test_a_run_says_what_it_is(stages: dict[str, Path]) -> None:
    (one,), (two,) = parts(stages["stage1"]), parts(stages["stage2"])
    assert (one.header.project, one.header.display_name) == ("diffi2i", "stage1")
    assert (one.header.run_group, one.header.job_type) == ("sisr", "diffi2i_s1")
    assert (two.header.run_group, two.header.job_type) == ("table7", "v3")
    assert list(two.header.tags) == ["sisr", "folder", "smoke", "diffi2i_s2"]
    assert one.header.run_id != two.header.run_id
    assert one.exit_code == two.exit_code == 0


def test_a_run_holds_the_configuration_and_its_provenance(stages: dict[str, Path]) -> None:
    (run,), record = parts(stages["stage2"]), result(stages["stage2"])
    assert run.config["train"]["steps"] == 4
    assert run.config["model"]["cpen"]["channels"] == 4
    assert run.config["method"]["init"] == str(stages["stage1"])
    provenance = run.config["provenance"]
    assert provenance["config_hash"] == record.provenance.config_hash
    assert provenance["commit"] == git_commit()
    assert provenance["versions"] == record.provenance.versions
    assert provenance["hardware"] == record.provenance.hardware


def test_a_run_holds_the_curves(stages: dict[str, Path]) -> None:
    (run,) = parts(stages["stage2"])
    steps = [row["_step"] for row in run.history]
    assert steps == [row["trainer/global_step"] for row in run.history] == [1, 3]
    for row in run.history:
        assert {f"val/folder/{key}" for key in (*SISR, "prior_dependence")} <= row.keys()
        assert {"train/loss", "train/loss_prior", "train/l1"} <= row.keys()


def test_a_run_holds_pictures_of_the_same_images(stages: dict[str, Path]) -> None:
    (one,), (two,) = parts(stages["stage1"]), parts(stages["stage2"])
    assert [row["panels.captions"] for row in one.history] == [["image09"]] * 2
    # The first four of two.
    assert [row["panels.captions"] for row in two.history] == [["image00", "image09"]] * 2
    early, late = (media(stages["stage2"], row, "panels") for row in two.history)
    assert all(Image.open(a).tobytes() != Image.open(b).tobytes() for a, b in zip(early, late, strict=True))
    assert len({Image.open(file).size for file in late}) == 1


@pytest.mark.parametrize("run", ["stage1", "stage2"])
def test_a_picture_shows_input_outputs_target_and_error(stages: dict[str, Path], run: str) -> None:
    # The last validation has the weights of the final evaluation.
    (found,) = parts(stages[run])
    picture = Image.open(media(stages[run], found.history[-1], "panels")[-1]).convert("RGB")
    own = {role: saved(stages[run], "image09", role) for role in ("input", "output", "target")}
    expected = [own["input"], own["output"], own["target"]]
    if run == "stage2":
        expected.insert(1, saved(stages["stage1"], "image09", "output"))
    for place, part in enumerate(expected):
        left = place * (part.width + GAP)
        assert picture.crop((left, HEADER, left + part.width, HEADER + part.height)).tobytes() == part.tobytes()
    error = np.asarray(picture, dtype=int)[HEADER:, len(expected) * (part.width + GAP) :][: part.height, : part.width]
    difference = np.abs(np.asarray(own["output"], dtype=int) - np.asarray(own["target"], dtype=int))
    assert np.abs(error - np.minimum(4 * difference, 255)).max() <= 5  # both were rounded to 8 bits before


def test_the_first_run_is_shown_only_for_the_very_same_image(stages: dict[str, Path], make: Make) -> None:
    target = Image.open(stages["stage1"] / "images" / "image09_target.png")
    config = make("s2", "method=diffi2i_s2", f"method.init={stages['stage1']}", "logger=wandb")
    shown = Showcase(config)
    before = shown.first_output("image09", target)
    assert before is not None
    output = Image.open(stages["stage1"] / "images" / "image09_output.png")
    assert before.tobytes() == output.tobytes() != target.tobytes()
    assert shown.first_output("image09", target.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) is None
    assert shown.first_output("image10", target) is None


def test_a_run_ends_with_its_scores(stages: dict[str, Path]) -> None:
    (run,), record = parts(stages["stage2"]), result(stages["stage2"])
    for key in SISR:
        assert run.summary[f"final/{key}"] == pytest.approx(record.scores[key].value)
        assert run.summary[f"baseline/{key}"] == pytest.approx(record.scores[key].baseline)
    gain = record.scores["psnr_y"].gains["prior_dependence"]
    assert run.summary["final/prior_dependence"] == pytest.approx(gain)
    for key in ("parameters", "seconds_per_image", "macs", "peak_memory_mb"):
        assert run.summary[f"final/{key}"] == pytest.approx(getattr(record.cost, key))
    for key, field in (("steps", "steps"), ("wall_time_s", "seconds"), ("cpu_time_s", "cpu_seconds")):
        assert run.summary[f"final/{key}"] == pytest.approx(getattr(record.training, field))
    files = wandb_files.parts(stages["stage2"])[0] / "files"
    scores = json.loads((files / run.summary["final/scores.path"]).read_text())
    assert scores["columns"] == ["metric", "score", "low", "high", "baseline", "images"]
    by_name = {row[0]: row[1:] for row in scores["data"]}
    assert set(by_name) == {*SISR, "prior_dependence"}  # not psnr_hole, which needs a hole
    score = record.scores["psnr_y"]
    assert by_name["psnr_y"] == [score.value, score.low, score.high, score.baseline, 2]
    per_image = json.loads((files / run.summary["final/per_image.path"]).read_text())
    named = [dict(zip(per_image["columns"], row, strict=True)) for row in per_image["data"]]
    assert named == record.images
    panel = files / run.summary["final/panel.path"]
    assert Image.open(panel).tobytes() == Image.open(stages["stage2"] / "panel.png").tobytes()


def test_tracking_changes_no_weight(stages: dict[str, Path]) -> None:
    tracked, plain = (weights(stages[name]) for name in ("stage1", "plain"))
    assert tracked.keys() == plain.keys()
    assert all(bool((tracked[key] == plain[key]).all()) for key in tracked)


def test_a_resumed_run_goes_on_under_its_id_and_steps(make: Make, monkeypatch: Any, capsys: Any) -> None:
    config = make("broken", "train.steps=6", "logger=wandb", "logger.panels=0")
    run_dir = Path(str(config.run_dir))
    with monkeypatch.context() as patch:
        stop_before_step(3, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    train.train(config)
    first, second = parts(run_dir)
    assert first.header.run_id == second.header.run_id
    # W&B appends the second to the first only where it says so.
    assert first.header.resume
    assert second.header.resume
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert [row["_step"] for row in first.history] == [1]
    assert [row["_step"] for row in second.history if "train/loss" in row] == [3, 5]
    assert all("panels.captions" not in row for row in second.history)
    folders = wandb_files.parts(run_dir)
    assert len(folders) == 2
    assert capsys.readouterr().out.rstrip().endswith(f"wandb sync {folders[0]} {folders[1]}")


def test_a_moved_run_keeps_its_id_and_another_has_its_own(tmp_path: Path) -> None:
    one = wandb_run.run_id(tmp_path / "one")
    assert wandb_run.run_id(tmp_path / "one") == one != wandb_run.run_id(tmp_path / "two")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert wandb_run.run_id(tmp_path / "moved") == one


def test_what_was_sent_is_not_named_again(make: Make, capsys: Any, tmp_path: Path) -> None:
    def part() -> wandb_run.WandbRun:
        return wandb_run.WandbRun(str(tmp_path / "run"), project="diffi2i")

    part().end(failed=False)
    (sent,) = wandb_files.parts(tmp_path / "run")
    assert f"wandb sync {sent}" in capsys.readouterr().out
    (file,) = sent.glob("*.wandb")
    Path(f"{file}.synced").touch()
    part().end(failed=False)
    named = capsys.readouterr().out.rpartition("wandb sync ")[2].split()
    assert named == [str(folder) for folder in wandb_files.parts(tmp_path / "run") if folder != sent]
    assert len(named) == 1


@pytest.mark.parametrize(
    "key", [pytest.param("short", marks=pytest.mark.long), 40 * "a"], ids=["no key at all", "unreachable"]
)
def test_a_useless_key_is_one_line_and_the_run_stays_on_disk(key: str, tmp_path: Path) -> None:
    # In a process of its own, since wandb remembers keys. Nothing listens to port 9.
    script = f"""
from diffi2i.run.wandb_run import WandbRun
run = WandbRun({str(tmp_path / "run")!r}, project="diffi2i")
run.log_metrics({{"val/psnr": 30.0}}, step=7)
run.end(failed=False)
"""
    settings = {"WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "3"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    refused, kept_at = (line for line in run.stdout.splitlines() if line.startswith("W&B"))
    assert refused.endswith("this run is kept on disk")
    (folder,) = wandb_files.parts(tmp_path / "run")
    assert kept_at == f"W&B, offline: wandb sync {folder}"
    (kept,) = parts(tmp_path / "run")
    assert [(row["_step"], row["val/psnr"]) for row in kept.history] == [(7, 30.0)]


def test_the_environment_decides_before_the_key(monkeypatch: Any) -> None:
    assert wandb_run.chosen_mode() == "offline"
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    assert wandb_run.chosen_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_run.chosen_mode() is None


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_other_loggers_need_no_wandb(make: Make, logger: str) -> None:
    run_dir = train.train(make("run", f"logger={logger}"))
    assert not (run_dir / "wandb").exists()
    table = run_dir / "logs" / "version_0" / "metrics.csv"
    assert table.is_file() == (logger == "csv")
    if logger == "csv":
        assert {"val/folder/psnr_y", "train/loss", "final/psnr_y", "baseline/psnr_y"} <= set(
            table.read_text().splitlines()[0].split(",")
        )


def test_tensorboard_has_curves_and_pictures(make: Make) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = train.train(make("run", "logger=tensorboard", "logger.panels=1"))
    (folder,) = (run_dir / "logs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Images("panels/image00")] == [1, 3]
    assert events.Tags()["images"] == ["panels/image00", "final/panel"]
    assert [event.step for event in events.Scalars("val/folder/psnr_y")] == [1, 3]
    assert len(events.Scalars("final/psnr_y")) == 1


def test_an_image_that_is_not_there_is_refused_before_training(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no validation image is called photo7: choose from image00, image09"):
        train.train(make("run", "logger=wandb", "logger.panels=[image00,photo7]"))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("panels", [-1, True, "image00", 1.5, [1]])
def test_panels_are_a_count_or_names(panels: Any) -> None:
    with pytest.raises(UserError, match="how many validation images"):
        chosen_images(panels)
