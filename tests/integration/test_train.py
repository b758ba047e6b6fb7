"""Whole runs: resume, seeds, records, and what a run directory survives."""

import errno
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffi2i.callbacks import timers
from diffi2i.commands import eval as evaluation
from diffi2i.commands import train
from diffi2i.commands.predict import predict
from diffi2i.config import compose
from diffi2i.config.commands import EvalConfig, PredictConfig
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.build import method_class
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.method import Method
from diffi2i.models.di2iformer import DynamicLayer
from diffi2i.run import directory
from diffi2i.run.plan import place
from diffi2i.run.provenance import git_commit
from tests.conftest import Make, small
from tests.interruption import InterruptedRunError, stop_before_step
from tests.records import INIT
from tests.runs import result, weight_bytes, weights
from tests.settings import CPU


@pytest.fixture(scope="module")
def stage2_once(stage1_once: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [*small("sisr", images), "method=diffi2i_s2", f"method.init={stage1_once}"]
    place = tmp_path_factory.mktemp("once") / "stage2"
    return train.train(compose.load(Config, "train", [*settings, f"run_dir={place}"]))


@pytest.fixture
def stage2(stage2_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stage2_once, tmp_path / "stage2"))


def test_processor_seconds_add_up_over_interruptions(make: Make, monkeypatch: Any) -> None:
    busy = [100.0]
    monkeypatch.setattr(timers, "time", SimpleNamespace(process_time=lambda: busy[0]))
    step = Method.training_step

    def slow(self: Any, batch: Any, batch_idx: int) -> Any:
        busy[0] += 5
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", slow)
    config = make("broken", "train.steps=6")
    with monkeypatch.context() as patch:
        stop_before_step(3, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    busy[0] = 7.0  # as in a new process
    # The third step was made twice and counts once, as it does for the weights.
    assert result(train.train(config)).training.cpu_seconds == 6 * 5


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
        stop_before_step(5, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    run_dir = Path(str(config.run_dir))
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    train.train(config)
    assert weight_bytes(run_dir) == weight_bytes(whole)
    assert result(whole).scores == result(run_dir).scores


@pytest.mark.parametrize("task", ["segmentation", "depth", "deblur", "realsr"])
def test_the_other_tasks_resume_bit_for_bit_too(make: Make, task: str, monkeypatch: Any) -> None:
    settings = (f"task={task}", "train.patch=64")
    whole = train.train(make("whole", *settings))
    config = make("broken", *settings)
    with monkeypatch.context() as patch:
        stop_before_step(3, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    train.train(config)
    assert weight_bytes(Path(str(config.run_dir))) == weight_bytes(whole)


def test_the_seed_decides_the_weights_and_the_workers_do_not(make: Make, stage1: Path) -> None:
    assert weight_bytes(train.train(make("again", "dataset.workers=1"))) == weight_bytes(stage1)
    assert weight_bytes(train.train(make("other", "seed=1"))) != weight_bytes(stage1)


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
    assert (record.task, record.budget, record.seed, record.main_metric) == ("sisr", "smoke", 0, "psnr_y")
    assert len(record.data.train) == len(record.data.val) == len(record.data.inputs) == 64
    assert record.scores["psnr"].n == len(record.images) == len(record.baseline_images) == 2
    assert record.data.protocol["border"] == 4
    assert (record.method.name, record.method.label) == ("diffi2i_s1", "stage 1 (sees GT)")
    assert record.method.sees_target
    assert record.method.options["prior"] == "truth"
    assert "init" not in record.method.options
    assert record.training.loss == "l1"
    assert 0 < record.training.seconds < 60
    assert 0 < record.training.cpu_seconds < 60
    assert record.cost.parameters > 0
    assert record.cost.measured_at[0] == 3
    assert record.cost.cpu_seconds > 0
    assert record.provenance.commit == git_commit()
    assert record.provenance.hardware["precision"] == "fp32"
    assert record.provenance.hardware["instructions"] == torch.backends.cpu.get_cpu_capability()

    def luma(file: Path) -> Any:
        return np.asarray(Image.open(file), dtype=np.float64)[4:-4, 4:-4] @ [65.481, 128.553, 24.966] / 255

    score = record.scores["psnr_y"]
    for recorded, role in ((score.value, "output"), (score.baseline, "input")):
        psnr = []
        for image in record.images:
            target, restored = (luma(stage1 / "images" / f"{image['name']}_{r}.png") for r in ("target", role))
            psnr.append(10 * np.log10(255**2 / np.mean((target - restored) ** 2)))
        assert recorded == pytest.approx(np.mean(psnr), abs=1e-5)
    assert (stage1 / "panel.png").is_file()


@pytest.mark.parametrize("number", [1, 2])
def test_eval_reproduces_the_score_of_training(stage1: Path, stage2: Path, number: int) -> None:
    run_dir = stage1 if number == 1 else stage2
    output = evaluation.evaluate(EvalConfig(run=str(run_dir), trainer=CPU))
    again, trained = result(output), result(run_dir)
    assert again.scores == trained.scores
    assert (again.method, again.training) == (trained.method, trained.training)


def test_eval_scores_every_image_of_a_named_folder(make: Make, stage1: Path, images: Path, tmp_path: Path) -> None:
    dataset = make("unused").dataset
    dataset.source["val_root"] = None
    output = evaluation.evaluate(
        EvalConfig(run=str(stage1), dataset=dataset, trainer=CPU, output=str(tmp_path / "all"))
    )
    whole, trained = result(output), result(stage1)
    assert whole.scores["psnr"].n == len(list(images.iterdir())) == 12
    assert whole.data.train == trained.data.train
    assert whole.data.val != trained.data.val


def test_eval_can_pool_over_windows(make: Make, stage1: Path, tmp_path: Path) -> None:
    tlc = ["method.tlc=true"]
    output = evaluation.evaluate(EvalConfig(run=str(stage1), trainer=CPU, set=tlc, output=str(tmp_path / "tlc")))
    method = result(output).method
    assert method.settings == tlc
    assert method.label == "stage 1 (sees GT), tlc=true"
    assert result(output).scores["psnr"].value != result(stage1).scores["psnr"].value
    other = train.train(make("segmentation", "task=segmentation"))
    with pytest.raises(UserError, match="tlc belongs to the DI2Iformer"):
        evaluation.evaluate(EvalConfig(run=str(other), trainer=CPU, set=tlc))


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
    def window(*overrides: str) -> int | None:
        method = DiffI2IS1(compose.load(Config, "train", ["method.tlc=true", "model=tiny", *overrides]))
        return next(layer.window for layer in method.network.modules() if isinstance(layer, DynamicLayer))

    assert window("task=deblur", "train.patch=256") == 384
    assert window("task=deblur", "budget=paper") == 384  # of crops that grow to 384, as Restormer's
    assert window("task=sisr", "train.patch=256") == 96


def test_batch_normalisation_of_a_single_value_is_explained(make: Make) -> None:
    with pytest.raises(UserError, match=r"write trainer\.device_batch=2 or train\.patch=64"):
        train.train(make("one", "task=segmentation", "trainer.device_batch=1"))


def test_an_output_far_out_of_range_is_scored_as_it_would_be_saved(
    stage1: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    predict = DiffI2IS1.predict
    monkeypatch.setattr(DiffI2IS1, "predict", lambda self, batch, noise: 100 * predict(self, batch, noise) - 10)
    far = evaluation.evaluate(EvalConfig(run=str(stage1), trainer=CPU, output=str(tmp_path / "far")))
    assert result(far).scores["psnr"].n == 2
    assert 0 < result(far).scores["psnr"].value < result(stage1).scores["psnr"].value


def test_eval_can_respace_the_reverse_process(stage1: Path, stage2: Path, tmp_path: Path) -> None:
    spaced = EvalConfig(run=str(stage2), trainer=CPU, set=["method.sampler.steps=[2,4]"], output=str(tmp_path / "two"))
    output = evaluation.evaluate(spaced)
    assert result(output).scores["psnr"].value != result(stage2).scores["psnr"].value
    method = result(output).method
    assert (method.settings, method.label) == (["method.sampler.steps=[2,4]"], "stage 2, sampler.steps=[2,4]")
    assert method.options["sampler"]["steps"] == [2, 4]
    assert (result(stage2).cost.calls, result(output).cost.calls) == (4, 2)
    with pytest.raises(UserError, match=r"method\.sampler: steps=\[1, 2\] must increase within 1\.\.4 and end at 4"):
        evaluation.evaluate(EvalConfig(run=str(stage2), trainer=CPU, set=["method.sampler.steps=[1,2]"]))
    with pytest.raises(UserError, match=r"'method\.sampler\.steps' is an option of method=.*diffi2i_s2 and "):
        evaluation.evaluate(EvalConfig(run=str(stage1), trainer=CPU, set=["method.sampler.steps=[4]"]))


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
    assert weight_bytes(run_dir) != weight_bytes(stage1)


def test_bf16_scores_as_float32_does(stage1: Path, stage2: Path, tmp_path: Path) -> None:
    """On these smooth images, which are restored at 40 dB."""
    for run in (stage1, stage2):
        found = {}
        for precision in ("fp32", "bf16"):
            trainer = replace(CPU, precision=precision)
            place = evaluation.evaluate(EvalConfig(run=str(run), trainer=trainer, output=str(tmp_path / precision)))
            found[precision] = result(place).scores["psnr"].value
            shutil.rmtree(tmp_path / precision)
        assert found["fp32"] != found["bf16"]
        assert found["bf16"] == pytest.approx(found["fp32"], abs=0.02)


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
    assert not torch.equal(weights(run_dir)["network.embed.weight"], path[-1]["network.embed.weight"])


def test_weights_of_another_model_are_refused(make: Make, stage1: Path) -> None:
    state = weights(stage1)
    state["network.embed.weight"] = torch.zeros(5, 3, 3, 3)
    save_file(state, stage1 / "weights.safetensors")
    (stage1 / "training.json").unlink()  # which has the hash of the others
    with pytest.raises(UserError, match="does not hold the model"):
        directory.load_method(stage1)


def test_a_full_disk_loses_nothing(make: Make, monkeypatch: Any) -> None:
    write = Path.write_bytes
    config = make("full")
    run_dir = Path(str(config.run_dir))
    for name in ("last.ckpt", "weights.safetensors"):

        def full(self: Path, content: Any, name: str = name) -> int:
            if self.name.startswith(name):
                write(self, bytes(content)[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, content)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(OSError, match="No space left"):
                train.train(config)
        assert not list(run_dir.rglob(f"{name}*"))
        assert not (run_dir / "result.json").exists()
    train.train(config)
    assert result(run_dir).training.steps == 4


def odd_images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("grey", (9, 14)), ("rgba", (8, 8, 4)), ("pixel", (1, 1, 3)), ("thin", (5, 3, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{name}.png")


def test_predict_restores_odd_images_and_names_the_broken_one(stage1: Path, stage2: Path, tmp_path: Path) -> None:
    odd_images(tmp_path / "in")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    config = PredictConfig(run=str(stage2), input=str(tmp_path / "in"), output=str(tmp_path / "out"), trainer=CPU)
    with pytest.raises(UserError, match=r"broken\.png"):
        predict(config)
    sizes = {file.stem: Image.open(file).size for file in (tmp_path / "out").glob("[!.]*")}
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
    for wrong, words in ((mask[:9], "is 30x9, its image"), (0 * mask, "no hole"), (np.dstack([mask] * 4), "transp")):
        Image.fromarray(wrong).save(tmp_path / "hole.png")  # younger than what was made with the other
        with pytest.raises(UserError, match=words):
            predict(config)
        assert (np.asarray(Image.open(tmp_path / "out" / "photo.png")) == filled).all()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_predict_out_of_memory_names_the_file_and_goes_on(
    stage2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    odd_images(tmp_path / "in")
    original = DiffI2IS2.predict

    def small_only(self: DiffI2IS2, batch: Any, noise: Any) -> torch.Tensor:
        if batch["input"].shape[-1] == 14:
            raise error
        return original(self, batch, noise)

    monkeypatch.setattr(DiffI2IS2, "predict", small_only)
    config = PredictConfig(run=str(stage2), input=str(tmp_path / "in"), output=str(tmp_path / "out"), trainer=CPU)
    with pytest.raises(UserError, match=r"grey\.png: 14x9, for which memory is wanting; cut it into smaller images"):
        predict(config)
    assert {file.stem for file in (tmp_path / "out").glob("[!.]*")} == {"rgba", "pixel", "thin"}


def test_predict_writes_a_file_whole_or_not_at_all(
    stage2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd_images(tmp_path / "in")
    save = Image.Image.save

    def interrupted(self: Image.Image, file: Path, kind: str, **settings: Any) -> None:
        save(self, file, kind, **settings)
        file.write_bytes(file.read_bytes()[:-9])
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(PredictConfig(run=str(stage2), input=str(tmp_path / "in"), output=str(tmp_path / "out"), trainer=CPU))
    assert list((tmp_path / "out").glob("[!.]*")) == []


def test_names_of_any_length_and_kind_train_and_what_changes_meanwhile_is_told(
    make: Make, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos (1), größe=画像 #~&'[x]"
    names = ["x" * 251, "画" * 83, "josé", "-a", "1e3"]
    for name, image in zip(names, sorted(images.iterdir()), strict=False):
        (root / "train").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / "train" / f"{name}.png")
    shutil.copytree(root / "train", root / "val")

    def meanwhile(method: Method, file: Path) -> None:
        directory.save_weights(method, file)
        (root / "train" / "new.png").write_bytes((root / "val" / "1e3.png").read_bytes())
        (root / "train" / "-a.png").unlink()  # read already, and kept in memory

    monkeypatch.setattr(train, "save_weights", meanwhile)
    run_dir = train.train(make("2024.10", f"root={root / 'train'}", f"dataset.source.val_root={root / 'val'}"))
    assert {image["name"] for image in result(run_dir).images} == set(names)
    assert len(list((run_dir / "images").iterdir())) == 3 * len(names)
    told = "trained on the data as they were; they have changed since: gone: -a; new: new"
    assert told in capsys.readouterr().out


def test_a_run_without_a_name_is_named_by_its_settings(make: Make, tmp_path: Path) -> None:
    one, two, hardware = make("x"), make("x", "seed=3"), make("x", "trainer.threads=2")
    places = {place(config) for config in (one, two, hardware)}
    assert len(places) == 2
    init = tmp_path / "init"
    init.mkdir()
    for content in (b"one", b"other"):
        (init / "weights.safetensors").write_bytes(content)
        places.add(place(make("x", f"method.init={init}")))
    assert len(places) == 4
    assert all(re.fullmatch(r"outputs/runs/smoke/sisr-diffi2i_s1-[0-9a-f]{8}", each.as_posix()) for each in places)


@pytest.mark.parametrize(
    ("overrides", "name", "label"),
    [
        ((), "diffi2i_s1", "stage 1 (sees GT)"),
        (("method.init=a",), "diffi2i_s1", "stage 1 (sees GT), trained on"),
        (("method=no_prior",), "no_prior", "no prior"),
        (("method=no_prior", "method.init=a"), "no_prior", "no prior, trained on"),
        (("method=diffi2i_s2",), "diffi2i_s2", "stage 2"),
        (("method=diffi2i_s2", "method.prior=none"), "diffi2i_s2", "stage 2, no diffusion"),
        (("method=diffi2i_s2", "method.prior=traditional"), "diffi2i_s2", "stage 2, traditional"),
        (("method=diffi2i_s2", "budget=reduced", "method.role=adversarial"), "diffi2i_s2", "stage 2, GAN"),
        (("method=regressor",), "regressor", "regressor"),
    ],
)
def test_a_run_is_called_by_its_method_and_its_settings(overrides: tuple[str, ...], name: str, label: str) -> None:
    config = compose.load(Config, "train", ("task=sisr", "model=tiny", *overrides))
    facts = evaluation.method_facts(method_class(config)(config), INIT)
    assert (facts.name, facts.label, facts.init) == (name, label, INIT)
    assert facts.sees_target == label.startswith("stage 1")
    assert facts.options.get("prior") == config.method.get("prior")
    assert not {"init", "name", "_target_"} & facts.options.keys()
