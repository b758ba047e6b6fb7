"""What makes a run this run: its data, its settings and what it starts from, by content and not by place."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffi2i.callbacks import guard
from diffi2i.commands import train
from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.manifest import hash_of_manifest, read_manifests
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.optimisation import rate_factor
from diffi2i.run.directory import origin_of
from diffi2i.run.plan import place
from tests.conftest import QUICK, SMALL_ENCODER, Make
from tests.interruption import InterruptedRunError, stop_before_step, stop_while_scoring
from tests.refusals import refusal
from tests.runs import repeatable, result, weight_bytes


def begin(config: Config, monkeypatch: pytest.MonkeyPatch, step: int = 3) -> None:
    """Trains up to this step, in the second epoch of two steps, and is interrupted there."""
    with monkeypatch.context() as patch:
        stop_before_step(step, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Path:
    """The images in folders of their own, train and val."""
    for i, file in enumerate(sorted(images.iterdir())):
        folder = tmp_path / "data" / ("val" if i < 2 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    return tmp_path / "data"


def at(folder: Path | str) -> tuple[str, str]:
    return f"root={folder}/train", f"dataset.source.val_root={folder}/val"


# --- where things lie --------------------


def test_data_at_another_path_is_gone_on_with(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.train(make("whole", *at(data)))
    begin(make("run", *at(data)), monkeypatch)
    data.rename(tmp_path / "elsewhere")
    config = make("run", f"root={tmp_path}/elsewhere/train/", f"dataset.source.val_root={tmp_path}/elsewhere/./val/")
    assert weight_bytes(train.train(config)) == weight_bytes(whole)
    assert repeatable(tmp_path / "run") == repeatable(whole)
    train.train(make("whole", *at(tmp_path / "elsewhere")))  # finished: nothing to do, and no other run


def test_names_follow_what_the_data_is_called_not_where_it_lies(make: Make, data: Path, tmp_path: Path) -> None:
    def name(*overrides: str) -> str:
        return place(make("x", *overrides)).name

    first = name(*at(data))
    shutil.copytree(data, tmp_path / "copy")
    assert name(*at(tmp_path / "copy")) == name(f"root={data}/train/", f"dataset.source.val_root={data}/val/") == first
    (data / "val").rename(data / "other")
    assert name(f"root={data}/train", f"dataset.source.val_root={data}/other") != first


def test_a_moved_stage_1_and_a_moved_run_are_gone_on_with(
    make: Make, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.train(make("whole", "method=diffi2i_s2", f"method.init={stage1}"))
    begin(make("run", "method=diffi2i_s2", f"method.init={stage1}"), monkeypatch)
    stage1.rename(tmp_path / "moved1")
    (tmp_path / "run").rename(tmp_path / "moved2")
    moved = train.train(make("moved2", "method=diffi2i_s2", f"method.init={tmp_path / 'moved1'}"))
    assert weight_bytes(moved) == weight_bytes(whole)
    assert repeatable(moved) == repeatable(whole)
    assert result(whole).method.init.network_steps == 4
    assert result(whole).training.network_steps == 8


# --- what is there --------------------


def add(folder: Path) -> None:
    shutil.copy(folder / "train" / "image05.png", folder / "train" / "more.png")


def remove(folder: Path) -> None:
    (folder / "train" / "image07.png").unlink()


def change(folder: Path) -> None:
    Image.new("RGB", (60, 50), (9, 9, 9)).save(folder / "train" / "image07.png")


def change_a_byte(folder: Path) -> None:
    """Of the same size; pixels may even be the same."""
    file = folder / "val" / "image01.png"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def move(folder: Path) -> None:
    (folder / "train" / "image07.png").rename(folder / "val" / "image07.png")


def test_other_data_is_refused_by_name(make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(make("run", *at(data), "train.steps=6"), monkeypatch)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    kept = checkpoint.read_bytes()
    for done, words in {
        add: "new: more",
        remove: "gone: image07",
        change: "changed: image07",
        change_a_byte: "changed: image01",
        move: "from train to val: image07",
    }.items():
        other = tmp_path / done.__name__
        shutil.copytree(data, other)
        done(other)
        said = refusal(train.train, make("run", *at(other), "train.steps=6"))
        assert f"holds a run on other data ({words})" in said
        assert checkpoint.read_bytes() == kept


def test_of_many_changes_a_few_are_named(make: Make, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("run", *at(data))
    begin(config, monkeypatch)
    for file in sorted((data / "train").iterdir())[:5]:
        file.rename(file.with_name(f"x{file.name}"))
    assert "gone: image04; and 7 more)".replace("; and", " and") in refusal(train.train, config)


def test_other_weights_of_stage_1_under_the_same_path_are_refused(
    make: Make, stage1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make("run", "method=diffi2i_s2", f"method.init={stage1}")
    begin(config, monkeypatch)
    file = stage1 / "weights.safetensors"
    kept = file.read_bytes()
    state = load_file(file)
    state["network.embed.bias"] = state["network.embed.bias"] + 1e-6
    save_file(state, file)
    assert "started from other weights than method.init=" in refusal(train.train, config)
    file.write_bytes(kept)
    train.train(config)


# --- what may change --------------------


def used_rates(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The optimiser's rate at each step from now on."""
    rates: dict[int, float] = {}
    step = DiffI2IS1.optimizer_step

    def watched(self: Any, epoch: int, batch_idx: int, optimizer: Any, *more: Any, **named: Any) -> None:
        rates[self.global_step] = optimizer.param_groups[0]["lr"]
        step(self, epoch, batch_idx, optimizer, *more, **named)

    monkeypatch.setattr(DiffI2IS1, "optimizer_step", watched)
    return rates


def test_the_rate_may_be_lowered_on_the_way(make: Make, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    rates = used_rates(monkeypatch)
    begin(make("run", "train.steps=8", "train.lr=1e-3"), monkeypatch, 5)
    config = make("run", "train.steps=8", "train.lr=1e-4", "train.clip=0.5", "train.warmup=0")
    run_dir = train.train(config)
    assert "train.lr is 0.0001 from step 4 on, it was 0.001" in capsys.readouterr().out
    assert rates == {
        step: pytest.approx((1e-3 if step < 4 else 1e-4) * rate_factor(step, config.train)) for step in range(8)
    }
    changed = {
        change["key"]: (change["step"], change["from"], change["to"]) for change in result(run_dir).training.changed
    }
    assert changed == {
        "train.lr": (4, 1e-3, 1e-4),
        "train.clip": (4, 1.0, 0.5),
        "train.warmup": (4, 0.05, 0.0),
    }
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][
        0
    ]["initial_lr"] == pytest.approx(1e-4)


def test_the_new_clip_is_the_one_in_use(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []
    begun = guard.FiniteSteps.on_train_start

    def watched(self: guard.FiniteSteps, *arguments: Any) -> None:
        seen.append(self.clip)
        begun(self, *arguments)

    monkeypatch.setattr(guard.FiniteSteps, "on_train_start", watched)
    begin(make("run", "train.steps=6"), monkeypatch)
    train.train(make("run", "train.steps=6", "train.clip=0.25"))
    assert seen == [1.0, 0.25]


def test_a_training_may_become_longer_or_shorter_on_the_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(make("run", "train.steps=6"), monkeypatch, 5)
    said = refusal(train.train, make("run", "train.steps=3"))
    assert "has made 4 steps: write train.steps=4 or more" in said
    begin(make("run", "train.steps=12"), monkeypatch, 7)
    run_dir = train.train(make("run", "train.steps=8"))
    assert result(run_dir).training.steps == 8
    assert [(change["step"], change["from"], change["to"]) for change in result(run_dir).training.changed] == [
        (4, 6, 12),
        (6, 12, 8),
    ]


def test_all_else_is_refused_on_the_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(make("run", "train.steps=6"), monkeypatch)
    for override in ("train.batch=4", "train.ema_decay=0.9", "seed=1", "train.schedule=constant"):
        key, _, now = override.partition("=")
        said = refusal(train.train, make("run", "train.steps=6", override))
        assert re.search(rf"holds a run with {re.escape(key)}=\S+, this one has {now}: name", said)


@pytest.mark.parametrize("finished", [True, False])
def test_nothing_changes_once_it_is_trained(make: Make, monkeypatch: pytest.MonkeyPatch, finished: bool) -> None:
    config = make("run", "train.steps=2")
    with monkeypatch.context() as patch:
        if not finished:
            stop_while_scoring(patch)
            with pytest.raises(InterruptedRunError):
                train.train(config)
        else:
            train.train(config)
    for override in ("train.lr=1e-4", "train.steps=9", "train.clip=0.5", "task.optimizer.lr=1e-4"):
        key = override.partition("=")[0]
        said = refusal(train.train, make("run", "train.steps=2", override))
        assert re.search(rf"has been trained with {re.escape(key)}=\S+, not \S+: name another run_dir", said)
    train.train(config)


def test_a_diverged_run_goes_on_with_a_lower_rate(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is what makes it diverge, from the fourth step on; the checkpoint before it is sound."""
    go_on: Any = DiffI2IS1.training_step

    def diverges(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = go_on(self, batch, batch_idx)
        return loss * float("nan") if self.global_step == 3 and self.config.train.lr > 1e-2 else loss

    monkeypatch.setattr(DiffI2IS1, "training_step", diverges)
    monkeypatch.setattr(guard, "IN_A_ROW", 1)
    said = refusal(train.train, make("run", "train.steps=6", "train.lr=0.1"))
    assert "1 steps in a row had no finite gradient, up to step 4" in said
    assert (
        "lower train.lr or train.clip, to go on from step 2 (what may be changed in this run_dir: train.steps" in said
    )
    run_dir = train.train(make("run", "train.steps=6", "train.lr=1e-3"))
    assert [(change["key"], change["step"]) for change in result(run_dir).training.changed] == [("train.lr", 2)]


@pytest.mark.parametrize(
    ("every", "words"), [(1, "the prediction for image00 has NaN"), (9, "the last 5 steps had no finite gradient")]
)
def test_weights_that_have_diverged_reach_no_checkpoint(
    make: Make, every: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("train.steps=6", "train.warmup=0", "train.epoch_steps=1", f"validation.every_epochs={every}")
    said = refusal(train.train, make("run", *settings, "train.lr=1e30"))
    assert words in said
    assert "lower train.lr or train.clip, to begin anew" in said
    assert ("from which no step can be made: passed over" in capsys.readouterr().out) == (every == 9)
    train.train(make("run", *settings, "train.lr=1e-3"))


# --- files that go --------------------


def test_a_training_file_that_goes_unread_does_not_stop_a_run_that_skips(
    make: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when the data is listed, and gone when its contents are asked for."""
    check = ImageDataModule.check

    def gone(self: ImageDataModule) -> None:
        assert len(self.train_items) == 10
        check(self)
        (data / "train" / "image09.png").unlink()

    monkeypatch.setattr(ImageDataModule, "check", gone)
    run_dir = train.train(make("run", *at(data), "dataset.on_error=skip"))
    assert len(result(run_dir).data.train) == 64


def scenes(root: Path) -> tuple[str, ...]:
    """Photos with labels in CamVid's folders."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            photo = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(photo).save(root / "images" / split / f"{split}{i}.png")
            Image.fromarray(np.full((48, 64), i, np.uint8)).save(root / "labels" / split / f"{split}{i}.png")
    return (*QUICK, *SMALL_ENCODER, "model.network.head_width=8", "task=segmentation", "dataset=camvid", f"root={root}")


def test_files_that_go_during_training_do_not_lose_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*scenes(tmp_path / "d"), "train.patch=64", f"run_dir={tmp_path / 'run'}")
    config = compose.load(Config, "train", settings)
    before = origin_of(config, build_data(config))
    fit = train.fit

    def then_gone(*arguments: Any) -> None:
        fit(*arguments)
        shutil.rmtree(tmp_path / "d" / "labels" / "train")

    monkeypatch.setattr(train, "fit", then_gone)
    found = result(train.train(config))
    assert (found.data.train, found.data.val) == (before["train"], before["val"])
    assert found.data.constant is not None


def test_unreadable_labels_are_left_out_of_the_baseline_where_training_skips_them(tmp_path: Path) -> None:
    settings = (*scenes(tmp_path / "d"), "train.patch=64", f"run_dir={tmp_path / 'run'}")
    (tmp_path / "d" / "labels" / "train" / "train0.png").write_bytes(b"no image")
    run_dir = train.train(compose.load(Config, "train", (*settings, "dataset.on_error=skip")))
    assert result(run_dir).data.constant == 1


def test_pictures_in_both_splits_are_told_when_training_starts(make: Make, data: Path, capsys: Any) -> None:
    train.train(make("clean", *at(data), "train.steps=2"))
    assert "trained on too" not in capsys.readouterr().out
    shutil.copy(data / "train" / "image05.png", data / "val" / "copy.png")
    train.train(make("run", *at(data), "train.steps=2"))
    assert "1 of 3 validation images are trained on too, such as copy (image05 in train)" in capsys.readouterr().out


def test_the_files_behind_the_hashes_are_kept(make: Make, data: Path) -> None:
    run_dir = train.train(make("run", *at(data), "train.steps=2"))
    kept = read_manifests(run_dir / "data.jsonl.gz")
    origin = json.loads((run_dir / "origin.json").read_text())
    for split, count in (("train", 10), ("val", 2)):
        assert len(kept[split]) == count
        assert hash_of_manifest(kept[split]) == origin[split] == getattr(result(run_dir).data, split)
