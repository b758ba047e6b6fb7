"""Nothing is lost: checkpoints that are torn, damaged or half written, and steps whose gradient is no number."""

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffi2i import files
from diffi2i.callbacks import guard
from diffi2i.callbacks.guard import FiniteSteps
from diffi2i.commands import train
from diffi2i.config.schema import Config
from diffi2i.data.dataset import Draw
from diffi2i.data.scenes import TrainScenes
from diffi2i.methods.method import Method
from diffi2i.run import checkpoints
from diffi2i.run.directory import load_method
from diffi2i.run.state import checkpoints_of, has_checkpoint
from tests.adversaries import gan
from tests.conftest import Make
from tests.interruption import InterruptedRunError, stop_before_step, stop_while_scoring
from tests.refusals import refusal
from tests.runs import repeatable, result, weight_bytes, weights

STEPS = ("train.steps=6", "train.epoch_steps=2", "train.ema_decay=0.9", "validation.every_epochs=9")


@pytest.fixture
def broken(make: Make, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run of six steps that was stopped before the sixth: its checkpoints are of steps 4 and 2."""
    config = make("broken", *STEPS)
    with monkeypatch.context() as patch:
        stop_before_step(5, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    last, before = checkpoints_of(Path(str(config.run_dir)))
    assert [checkpoints.read(file).steps for file in (last, before)] == [4, 2]
    return config


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 16
    file.write_bytes(content)


def tear(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def test_every_flipped_bit_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    callbacks = {"Timer": {"time_elapsed": {"train": 1.0}}, "ProcessorTimer": {"seconds": 1.0}}
    state = {"global_step": 3, "state_dict": {"w": torch.arange(64.0)}, "callbacks": callbacks}
    torch.save(state | {"callbacks": {**callbacks, "FiniteSteps": {"skipped": 0}}}, file)
    assert checkpoints.damage(file) is None
    with zipfile.ZipFile(file) as archive:
        (place,) = [entry.header_offset for entry in archive.infolist() if entry.filename.endswith("data/0")]
    whole = file.read_bytes()
    start = whole.index(torch.arange(64.0).numpy().tobytes(), place)
    for offset in range(0, 256, 5):
        flip(file, start + offset)
        assert "wrong checksum" in str(checkpoints.damage(file))
        file.write_bytes(whole)
    for size in (0, 1, len(whole) // 3, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert checkpoints.damage(file)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    broken: Config, make: Make, damaged: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = Path(str(broken.run_dir))
    last, before = checkpoints_of(run_dir)
    tear(last)
    if damaged == 2:
        flip(before, before.stat().st_size // 2)
    capsys.readouterr()
    train.train(broken)
    printed = capsys.readouterr().out
    assert printed.count("is damaged (") == damaged
    assert "last.ckpt is damaged (" in printed
    assert ("resuming" if damaged == 1 else "training") in printed
    whole = train.train(make("whole", *STEPS))
    assert weight_bytes(run_dir) == weight_bytes(whole)
    assert repeatable(run_dir) == repeatable(whole)
    assert (run_dir / "checkpoints" / "last.ckpt.damaged").is_file()


def test_a_writer_that_dies_leaves_what_was_there(broken: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = Path(str(broken.run_dir))
    last, before = checkpoints_of(run_dir)
    kept = last.read_bytes(), before.read_bytes()
    replace, calls = Path.replace, []

    def dies(self: Path, target: Path) -> Path:
        calls.append(target)
        if target == last:
            raise InterruptedRunError
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(InterruptedRunError):
            train.train(broken)
    assert last in calls
    assert not last.exists(), "killed between the two renames"
    assert before.read_bytes() == kept[0]
    assert checkpoints.newest(run_dir) == before
    (run_dir / "checkpoints" / "last.ckpt.1.tmp").write_bytes(b"half a file")
    train.train(broken)
    assert not list(run_dir.rglob("*.tmp"))


def test_a_checkpoint_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))  # it lies beside what it replaces
    file, kept = tmp_path / "file", tmp_path / "kept"
    file.write_text("old")

    def write_half() -> None:
        with files.whole(file, kept) as temporary:
            temporary.write_text("ha")
            assert temporary.parent == file.parent
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        write_half()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    with files.whole(file, kept) as temporary:
        temporary.write_text("new")
    assert (file.read_text(), kept.read_text()) == ("new", "old")


@pytest.mark.parametrize("damage", [tear, lambda file: flip(file, -9)])
@pytest.mark.parametrize("name", ["weights.safetensors", "training.json"])
def test_what_a_training_has_left_is_made_again_where_it_is_damaged(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[Path], None]
) -> None:
    config = make("run", *STEPS)
    with monkeypatch.context() as patch:
        stop_while_scoring(patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    file = Path(str(config.run_dir)) / name
    sound = weight_bytes(file.parent)
    damage(file)
    train.train(config)
    assert weight_bytes(file.parent) == sound
    assert result(file.parent).training.weights


def test_a_damaged_record_is_no_finished_run(stage1: Path) -> None:
    tear(stage1 / "result.json")
    said = refusal(train.train, load_config(stage1))
    assert "result.json is damaged (" in said
    assert "delete it and give its command again" in said
    (stage1 / "result.json").unlink()
    assert result(train.train(load_config(stage1))).scores


def test_damaged_weights_of_a_finished_run_are_not_used(stage1: Path) -> None:
    flip(stage1 / "weights.safetensors", -9)
    said = refusal(load_method, stage1)
    assert "weights.safetensors is damaged, or not what the training wrote" in said
    (stage1 / "weights.safetensors").unlink()
    (stage1 / "result.json").unlink()
    train.train(load_config(stage1))
    load_method(stage1)


def load_config(run_dir: Path) -> Config:
    from dataclasses import replace

    from diffi2i.config.run import read_run_config

    return replace(read_run_config(run_dir), run_dir=str(run_dir))


def test_a_run_killed_while_it_claims_its_folder_is_not_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("run", "train.steps=2")
    for name in ("origin.json", "data.jsonl.gz", "config.yaml"):
        replace: Any = Path.replace

        def dies(self: Path, target: Path, name: str = name, replace: Any = replace) -> Path:
            if target.name == name:
                shutil.copy(self, f"{self}.x.tmp")  # a killed process clears nothing away
                raise InterruptedRunError
            return Path(replace(self, target))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dies)
            with pytest.raises(InterruptedRunError):
                train.train(config)
    run_dir = train.train(config)
    assert not list(run_dir.rglob("*.tmp"))


# --- numbers --------------------


def poison(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """The gradient of some weight is NaN at these steps, while the loss stays what it was."""
    go_on: Any = Method.training_step

    def poisoned(self: Method, batch: Any, batch_idx: int) -> Any:
        weight: Any = next(each for each in self.parameters() if each.requires_grad)
        if self.global_step == steps.start:
            weight.register_hook(lambda gradient: gradient * float("nan") if self.global_step in steps else gradient)
        return go_on(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", poisoned)


def states(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Weights and the optimisers' moments after each batch from now on."""
    seen = []
    go_on = FiniteSteps.on_train_batch_end

    def watched(self: Any, trainer: Any, module: Any, *more: Any) -> None:
        moments = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        state: dict[str, Tensor] = dict(module.named_parameters())
        for i, each in enumerate(moments):
            state |= {f"{i} {weight} {key}": value for weight, own in each.items() for key, value in own.items()}
        seen.append({key: value.detach().clone() for key, value in state.items()})
        go_on(self, trainer, module, *more)

    monkeypatch.setattr(FiniteSteps, "on_train_batch_end", watched)
    return seen


@pytest.mark.parametrize("settings", [(), gan("sisr")], ids=["l1", "gan"])
def test_a_step_without_a_finite_gradient_changes_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = states(monkeypatch)
    poison(monkeypatch, range(3, 4))  # the last of an epoch
    run_dir = train.train(make("run", *settings, *STEPS))
    third, fourth, fifth = seen[2:5]
    assert third.keys() == fourth.keys()
    assert all(torch.equal(third[key], fourth[key]) for key in third)
    assert any(not torch.equal(fourth[key], fifth[key]) for key in third)
    assert "step 4 is skipped: its gradient is not finite\n" in capsys.readouterr().out
    assert (result(run_dir).training.skipped, result(run_dir).training.steps) == (1, 6)
    assert all(value.isfinite().all() for value in checkpoints.read(checkpoints_of(run_dir)[0]).weights.values())


def test_training_stops_where_no_step_is_finite_and_goes_on_under_other_settings(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "IN_A_ROW", 3)
    config = make("run", *STEPS)
    with monkeypatch.context() as patch:
        poison(patch, range(2, 9))
        said = refusal(train.train, config)
    # Step 2 is the checkpoint of the weights that fail: the one before is none, since an epoch is two steps.
    assert "3 steps in a row had no finite gradient, up to step 5" in said
    assert "to begin anew" in said
    assert not has_checkpoint(Path(str(config.run_dir)))
    assert result(train.train(make("run", *STEPS, "train.lr=1e-5"))).training.skipped == 0


def test_images_are_named_only_where_they_are_to_blame(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = TrainScenes.__getitem__

    def spoiled(self: TrainScenes, place: Draw) -> Any:
        sample = draw(self, place)
        return sample | {"input": sample["input"] * float("nan")} if place.step == 3 else sample

    monkeypatch.setattr(TrainScenes, "__getitem__", spoiled)
    run_dir = train.train(make("run", *STEPS, "task=segmentation", "train.patch=64"))
    assert all(value.isfinite().all() for value in weights(run_dir).values()), "batch normalisation has seen them"
    assert "step 4 is skipped: its gradient is not finite; NaN or infinite values are in " in capsys.readouterr().out


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def write() -> None:
        with files.whole(file) as place:
            place.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a name

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(file)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "before"
