"""Whole runs: resume, seeds, records, and what a run directory survives."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffi2i import config, runs, train
from diffi2i import evaluate as evaluation
from diffi2i.data.dataset import Draw, TrainImages
from diffi2i.errors import UserError
from diffi2i.predict import predict
from diffi2i.schema import Config, EvalConfig, PredictConfig, TrainerConfig
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from tests.conftest import Make

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
CPU = TrainerConfig(accelerator="cpu", precision="fp32", progress=False)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "weights.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def result(run_dir: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return record


@pytest.fixture
def stage1(make: Make) -> Path:
    return train.train(make("stage1"))


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("name", ["pretrain", "joint"])
def test_interrupted_and_resumed_equals_uninterrupted(make: Make, stage1: Path, monkeypatch: Any, name: str) -> None:
    extra = [] if name == "pretrain" else ["method=diffi2i_s2", f"method.init={stage1}"]
    whole = train.train(make("whole", *extra, "train.steps=6"))
    kind: Any = DiffI2IS1 if name == "pretrain" else DiffI2IS2
    step = kind.training_step

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 3:  # in the middle of the second epoch
            raise InterruptedRunError
        return step(self, batch, batch_idx)

    config = make("broken", *extra, "train.steps=6")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "training_step", interrupted)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    run_dir = Path(str(config.run_dir))
    assert not (run_dir / "result.json").exists()
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    train.train(config)
    assert same(whole, run_dir)
    assert result(whole)["metrics"] == result(run_dir)["metrics"]


def interrupt_at(step: int, kind: Any, patch: Any) -> None:
    """Makes the training of `kind` raise InterruptedRunError at a step."""
    go_on = kind.training_step

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            raise InterruptedRunError
        return go_on(self, batch, batch_idx)

    patch.setattr(kind, "training_step", interrupted)


@pytest.mark.parametrize("device_batch", [2, 1])
def test_interrupted_inside_a_later_phase_and_resumed_equals_uninterrupted(
    make: Make, monkeypatch: Any, device_batch: int
) -> None:
    seen: list[tuple[int, torch.Size]] = []
    step = DiffI2IS1.training_step

    def watched(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.append((self.global_step, batch["target"].shape))
        return step(self, batch, batch_idx)

    phases = "train.phases=[{step: 3, patch: 40, batch: 4}, {step: 7, patch: 24, batch: 2}]"
    settings = (phases, "train.steps=8", f"trainer.device_batch={device_batch}")
    with monkeypatch.context() as patch:
        patch.setattr(DiffI2IS1, "training_step", watched)
        whole = train.train(make("whole", *settings))
    parts = 2 // device_batch
    shapes = {**dict.fromkeys(range(3), (2, 32)), **dict.fromkeys(range(3, 7), (4, 40)), 7: (2, 24)}
    expected = [(made, torch.Size((n // parts, 3, s, s))) for made, (n, s) in shapes.items() for _ in range(parts)]
    assert seen == expected

    config = make("broken", *settings)
    with monkeypatch.context() as patch:
        interrupt_at(5, DiffI2IS1, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    run_dir = Path(str(config.run_dir))
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    train.train(config)
    assert same(whole, run_dir)
    assert result(whole)["metrics"] == result(run_dir)["metrics"]


@pytest.mark.parametrize("task", ["segmentation", "depth", "deblur", "realsr"])
def test_the_other_tasks_resume_bit_for_bit_too(make: Make, task: str, monkeypatch: Any) -> None:
    settings = (f"task={task}", "train.patch=64")
    whole = train.train(make("whole", *settings))
    config = make("broken", *settings)
    with monkeypatch.context() as patch:
        interrupt_at(3, DiffI2IS1, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    train.train(config)
    assert same(whole, Path(str(config.run_dir)))


def test_the_seed_decides_the_weights_and_the_workers_do_not(make: Make) -> None:
    first = train.train(make("first"))
    assert same(first, train.train(make("again", "dataset.workers=1")))
    assert not same(first, train.train(make("other", "seed=1")))


def test_a_finished_run_says_so_and_does_nothing(make: Make, stage1: Path, capsys: Any) -> None:
    before = {file: file.stat().st_mtime_ns for file in stage1.rglob("*")}
    train.train(make("stage1"))
    assert "finished" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in stage1.rglob("*")} == before


def test_a_run_directory_is_not_shared(make: Make, stage1: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run with train\.batch=2, this one has 4: name another run_dir"):
        train.train(make("stage1", "train.batch=4"))
    with pytest.raises(UserError, match=r"has been trained with train\.steps=4, not 8: name another run_dir"):
        train.train(make("stage1", "train.steps=8"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        train.train(make("foreign"))
    assert [file.name for file in foreign.iterdir()] == ["thesis.tex"]


def test_the_record_is_complete_and_agrees_with_the_saved_images(make: Make, stage1: Path) -> None:
    record = result(stage1)
    fields = (
        "task dataset model stage scale seed steps commit versions hardware protocol metrics baseline n_images "
        "parameters macs seconds_per_image peak_memory_mb wall_time_s config_hash date per_image reasons"
    )
    assert set(fields.split()) <= record.keys()
    assert len(record["dataset"]["train"]) == len(record["dataset"]["val"]) == 64
    assert record["n_images"]["psnr"] == len(record["per_image"]) == 2

    def luma(file: Path) -> Any:
        return np.asarray(Image.open(file), dtype=np.float64)[4:-4, 4:-4] @ [65.481, 128.553, 24.966] / 255

    for key, role in (("metrics", "output"), ("baseline", "input")):
        psnr = []
        for image in record["per_image"]:
            target, restored = (luma(stage1 / "images" / f"{image['name']}_{r}.png") for r in ("target", role))
            psnr.append(10 * np.log10(255**2 / np.mean((target - restored) ** 2)))
        assert record[key]["psnr_y"] == pytest.approx(np.mean(psnr), abs=1e-5)
    assert (stage1 / "panel.png").is_file()


@pytest.mark.parametrize("name", ["pretrain", "joint"])
def test_eval_reproduces_the_score_of_training(make: Make, stage1: Path, name: str) -> None:
    run_dir = stage1
    if name == "joint":
        run_dir = train.train(make("stage2", "method=diffi2i_s2", f"method.init={stage1}"))
    output = evaluation.evaluate(EvalConfig(run=str(run_dir), trainer=CPU))
    assert result(output)["metrics"] == result(run_dir)["metrics"]
    assert result(output)["baseline"] == result(run_dir)["baseline"]


def test_eval_scores_every_image_of_a_named_folder(make: Make, stage1: Path, images: Path, tmp_path: Path) -> None:
    dataset = make("unused").dataset
    dataset.source["val_root"] = None
    output = evaluation.evaluate(
        EvalConfig(run=str(stage1), dataset=dataset, trainer=CPU, output=str(tmp_path / "all"))
    )
    assert result(output)["n_images"]["psnr"] == len(list(images.iterdir())) == 12
    assert result(output)["dataset"]["train"] == result(stage1)["dataset"]["train"]
    assert result(output)["dataset"]["val"] != result(stage1)["dataset"]["val"]


def test_eval_can_pool_over_windows(make: Make, stage1: Path, tmp_path: Path) -> None:
    output = evaluation.evaluate(EvalConfig(run=str(stage1), trainer=CPU, tlc=True, output=str(tmp_path / "tlc")))
    assert result(output)["tlc_window"] == 32 * 3 // 2 // 4
    assert result(output)["metrics"]["psnr"] != result(stage1)["metrics"]["psnr"]
    other = train.train(make("segmentation", "task=segmentation"))
    with pytest.raises(UserError, match="tlc belongs to the DI2Iformer"):
        evaluation.evaluate(EvalConfig(run=str(other), trainer=CPU, tlc=True))


def test_a_wrong_unit_of_depth_is_refused_before_any_step(make: Make, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"depths from 2\d+ to \d+ m.*write dataset\.target\.unit=.*0\.001 \(millimetres\)"
    ):
        train.train(make("metres", "task=depth", "dataset.target.unit=1"))
    assert not list((tmp_path / "metres").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("task", "words"),
    [("depth", "targets of motorcycle, depth: 2."), ("segmentation", "targets of shapes, classes: 0: ")],
)
def test_what_the_targets_hold_is_printed_with_the_scores(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, words: str
) -> None:
    run_dir = train.train(make("run", f"task={task}", "train.steps=2", "train.epoch_steps=2"))
    assert capsys.readouterr().out.count(words) == 1
    evaluation.evaluate(EvalConfig(run=str(run_dir), trainer=CPU))
    assert capsys.readouterr().out.count(words) == 1
    if task == "depth":
        saved = (run_dir / "config.yaml").read_text()
        (run_dir / "config.yaml").write_text(saved.replace("unit: 0.001", "unit: 1.0"))
        with pytest.raises(UserError, match=r"none inside 0\.001 to 10 m"):
            evaluation.evaluate(EvalConfig(run=str(run_dir), trainer=CPU))


def test_tlc_windows_follow_the_training_crops() -> None:
    def window(*overrides: str) -> int:
        return evaluation.tlc_window(config.load(Config, "train", overrides))

    assert window("task=deblur", "train.patch=256") == 384
    assert window("task=deblur", "budget=paper") == 384  # of crops that grow to 384, as Restormer's
    assert window("task=sisr", "train.patch=256") == 96


def test_batch_normalisation_of_a_single_value_is_explained(make: Make) -> None:
    with pytest.raises(UserError, match=r"write trainer\.device_batch=2 or train\.patch=64"):
        train.train(make("one", "task=segmentation", "trainer.device_batch=1"))


def test_an_output_far_out_of_range_is_scored_as_it_would_be_saved(
    stage1: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    restore = DiffI2IS1.restore
    monkeypatch.setattr(DiffI2IS1, "restore", lambda self, batch, z: 100 * restore(self, batch, z) - 10)
    far = result(evaluation.evaluate(EvalConfig(run=str(stage1), trainer=CPU, output=str(tmp_path / "far"))))
    assert far["n_images"]["psnr"] == 2
    assert 0 < far["metrics"]["psnr"] < result(stage1)["metrics"]["psnr"]


def test_eval_can_respace_the_reverse_process(make: Make, stage1: Path, tmp_path: Path) -> None:
    run_dir = train.train(make("stage2", "method=diffi2i_s2", f"method.init={stage1}"))
    spaced = EvalConfig(run=str(run_dir), trainer=CPU, timesteps=[2, 4], output=str(tmp_path / "spaced"))
    assert result(evaluation.evaluate(spaced))["metrics"]["psnr"] != result(run_dir)["metrics"]["psnr"]
    with pytest.raises(UserError, match="timesteps"):
        evaluation.evaluate(EvalConfig(run=str(run_dir), trainer=CPU, timesteps=[1, 2]))
    with pytest.raises(UserError, match="stage 1 has no diffusion"):
        evaluation.evaluate(EvalConfig(run=str(stage1), trainer=CPU, timesteps=[4]))


def test_nan_in_a_batch_stops_and_names_the_image(make: Make, monkeypatch: Any) -> None:
    draw = TrainImages.__getitem__

    def poisoned(self: TrainImages, place: Draw) -> Any:
        sample = draw(self, place)
        return sample | {"input": sample["input"] * float("nan")} if place.step >= 3 else sample

    config = make("poisoned", "train.steps=8")
    monkeypatch.setattr(TrainImages, "__getitem__", poisoned)
    with pytest.raises(UserError, match=r"loss is nan at step 4 \(images: image"):
        train.train(config)
    last = torch.load(Path(str(config.run_dir)) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_accumulated_batches_equal_one_batch(make: Make) -> None:
    # Adam divides by the gradient's size, which turns rounding into steps: plain descent does not.
    plain = ("task.optimizer._target_=torch.optim.SGD", "~task.optimizer.betas")
    one, two = train.train(make("one", *plain)), train.train(make("two", *plain, "trainer.device_batch=1"))
    theirs = weights(two)
    for key, value in weights(one).items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-6)


def test_bf16_is_one_switch(make: Make, stage1: Path, autocast_losses: list[torch.Tensor]) -> None:
    run_dir = train.train(make("bf16", "trainer.precision=bf16"))
    assert {loss.dtype for loss in autocast_losses} == {torch.float32}
    assert not same(run_dir, stage1)


def test_saved_weights_are_the_averaged_ones(make: Make, monkeypatch: Any) -> None:
    path: list[dict[str, torch.Tensor]] = []
    original = DiffI2IS1.optimizer_step

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        path.append({key: value.detach().clone() for key, value in self.state_dict().items()})

    monkeypatch.setattr(DiffI2IS1, "optimizer_step", recorded)
    run_dir = train.train(make("averaged", "train.ema_decay=0.7"))
    average = path[0]
    for state in path[1:]:
        average = {key: 0.7 * average[key] + 0.3 * value for key, value in state.items()}
    for key, value in weights(run_dir).items():
        torch.testing.assert_close(value, average[key], rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights(run_dir)["di2iformer.embed.weight"], path[-1]["di2iformer.embed.weight"])


def test_weights_of_another_model_are_refused(make: Make, stage1: Path) -> None:
    state = weights(stage1)
    state["di2iformer.embed.weight"] = torch.zeros(5, 3, 3, 3)
    save_file(state, stage1 / "weights.safetensors")
    with pytest.raises(UserError, match="does not hold the model"):
        runs.load_method(stage1)


def test_a_full_disk_loses_nothing(make: Make, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = make("full")
    run_dir = Path(str(config.run_dir))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            train.train(config)
    assert not (run_dir / "weights.safetensors").exists()
    assert not (run_dir / "result.json").exists()
    train.train(config)
    assert result(run_dir)["steps"] == 4


def odd_images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("grey", (9, 14)), ("rgba", (8, 8, 4)), ("pixel", (1, 1, 3)), ("thin", (5, 3, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{name}.png")


def test_predict_restores_odd_images_and_names_the_broken_one(make: Make, stage1: Path, tmp_path: Path) -> None:
    run_dir = train.train(make("stage2", "method=diffi2i_s2", f"method.init={stage1}"))
    odd_images(tmp_path / "in")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    config = PredictConfig(run=str(run_dir), input=str(tmp_path / "in"), output=str(tmp_path / "out"), trainer=CPU)
    with pytest.raises(UserError, match=r"broken\.png"):
        predict(config)
    sizes = {file.stem: Image.open(file).size for file in (tmp_path / "out").iterdir()}
    assert sizes == {"grey": (56, 36), "rgba": (32, 32), "pixel": (4, 4), "thin": (12, 20)}
    with pytest.raises(UserError, match="leave out mask"):
        predict(PredictConfig(**{**vars(config), "mask": str(tmp_path / "in")}))
    with pytest.raises(UserError, match="needs the ground truth"):
        predict(PredictConfig(**{**vars(config), "run": str(stage1)}))


def test_predict_fills_holes_and_keeps_the_rest(make: Make, tmp_path: Path) -> None:
    first = train.train(make("i1", "task=inpainting"))
    run_dir = train.train(make("i2", "task=inpainting", "method=diffi2i_s2", f"method.init={first}"))
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:20] = 255
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "hole.png")
    config = PredictConfig(
        run=str(run_dir), input=str(tmp_path / "photo.png"), output=str(tmp_path / "out"), trainer=CPU
    )
    with pytest.raises(UserError, match="mask="):
        predict(config)
    config.mask = str(tmp_path / "hole.png")
    predict(config)
    filled = np.asarray(Image.open(tmp_path / "out" / "photo.png"))
    assert (filled[mask == 0] == image[mask == 0]).all()
    assert (filled[mask > 0] != image[mask > 0]).any()
    Image.fromarray(mask[:9]).save(tmp_path / "hole.png")
    with pytest.raises(UserError, match="is 30x9, its image"):
        predict(config)


def test_a_run_without_a_name_is_named_by_its_settings(make: Make) -> None:
    one, two, hardware = make("x"), make("x", "seed=3"), make("x", "trainer.threads=2")
    origin = {"train": "a", "val": "b", "init": None}
    names = {runs.default_run_dir(config, origin).name for config in (one, two, hardware)}
    assert len(names) == 2
    assert runs.default_run_dir(one, origin | {"train": "c"}).name not in names
    assert runs.default_run_dir(one, origin | {"init": {"weights": "d"}}).name not in names
    assert all(name.startswith("folder-tiny-pretrain-smoke-seed") for name in names)
