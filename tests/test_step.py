"""The step with a discriminator: both networks move, steps are counted once, and a resumed run is the same run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from diffi2i import train
from diffi2i.config import check
from diffi2i.errors import UserError
from diffi2i.stages.common import rate_factor
from diffi2i.stages.pretrain import PretrainStage
from tests.conftest import Make

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

L1 = "terms: {l1: {_target_: diffi2i.losses.pixel.L1}}"
UNET = "{_target_: diffi2i.models.discriminator.UNetDiscriminator, width: 2}"
PATCH = "{_target_: diffi2i.models.discriminator.PatchDiscriminator, width: 2, layers: 2}"
ADVERSARIES = {
    "sisr": f"{{_target_: diffi2i.losses.adversarial.RealESRGANAdversary, discriminator: {UNET}, lr_factor: 0.5}}",
    "inpainting": f"{{_target_: diffi2i.losses.adversarial.LamaAdversary, discriminator: {PATCH}}}",
}


def gan(task: str) -> tuple[str, ...]:
    node = f"{{_target_: diffi2i.losses.task.TaskLoss, {L1}, adversary: {ADVERSARIES[task]}}}"
    return (f"task={task}", f"+task.losses.gan={node}", "train.loss=gan")


def checkpoint(run_dir: Path | str | None) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(Path(str(run_dir)) / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def discriminator(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.startswith("task_loss.") and value.is_floating_point()}


@pytest.mark.parametrize("task", ["sisr", "inpainting"])
def test_both_networks_move_and_only_the_generators_steps_are_counted(make: Make, task: str, monkeypatch: Any) -> None:
    before: dict[str, torch.Tensor] = {}
    start = PretrainStage.configure_optimizers

    def watched(self: PretrainStage) -> Any:
        before.update({key: value.clone() for key, value in self.state_dict().items()})
        both = start(self)
        ours, theirs = ({id(p) for g in one["optimizer"].param_groups for p in g["params"]} for one in both)
        named = {id(parameter): name for name, parameter in self.named_parameters()}
        assert ours | theirs == named.keys()
        assert not ours & theirs
        assert all(named[key].startswith("task_loss.adversary.discriminator") for key in theirs)
        return both

    monkeypatch.setattr(PretrainStage, "configure_optimizers", watched)
    run_dir = train.train(make("run", *gan(task)))
    last = checkpoint(run_dir)
    assert last["global_step"] == 4
    assert [len({entry["step"].item() for entry in o["state"].values()}) for o in last["optimizer_states"]] == [1, 1]
    assert all(entry["step"] == 4 for o in last["optimizer_states"] for entry in o["state"].values())
    rates = [o["param_groups"][0]["lr"] for o in last["optimizer_states"]]
    assert rates[1] == pytest.approx(0.5 * rates[0])
    moved = {key for key, value in last["current_model_state"].items() if not torch.equal(value, before[key])}
    assert any(key.startswith("di2iformer") for key in moved)
    assert any(key.startswith("task_loss.") for key in moved)
    assert not any(key.startswith("task_loss") for key in load_file(run_dir / "weights.safetensors"))


def test_the_discriminator_rests_until_it_joins(make: Make) -> None:
    run_dir = train.train(make("run", *gan("sisr"), "train.adversarial_from=1"))
    assert checkpoint(run_dir)["optimizer_states"][1]["state"] == {}
    plain = train.train(make("plain", *gan("sisr"), "train.adversarial_from=0.5"))
    assert all(entry["step"] == 2 for entry in checkpoint(plain)["optimizer_states"][1]["state"].values())


def test_accumulated_batches_equal_one_batch(make: Make) -> None:
    # Adam divides by the gradient's size, which turns rounding into steps: plain descent does not. The U-Net has no
    # batch norm; its spectral norm iterates once per pass and so differs a little.
    plain = ("task.optimizer._target_=torch.optim.SGD", "~task.optimizer.betas", "train.clip=null")
    one = train.train(make("one", *gan("sisr"), *plain))
    two = train.train(make("two", *gan("sisr"), *plain, "trainer.device_batch=1"))
    assert checkpoint(two)["global_step"] == 4
    theirs = load_file(two / "weights.safetensors")
    for key, value in load_file(one / "weights.safetensors").items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-5)


class InterruptedRunError(Exception):
    pass


def test_interrupted_and_resumed_equals_uninterrupted(make: Make, monkeypatch: Any) -> None:
    whole = train.train(make("whole", *gan("sisr"), "train.steps=6"))
    step = PretrainStage.training_step

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 3:
            raise InterruptedRunError
        return step(self, batch, batch_idx)

    config = make("broken", *gan("sisr"), "train.steps=6")
    with monkeypatch.context() as patch:
        patch.setattr(PretrainStage, "training_step", interrupted)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    assert checkpoint(config.run_dir)["global_step"] == 2
    train.train(config)
    one, two = checkpoint(whole), checkpoint(config.run_dir)
    for part in ("state_dict", "current_model_state"):
        assert discriminator(one[part])
        assert all(torch.equal(one[part][key], two[part][key]) for key in one[part])
    for ours, theirs in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        for key, entry in ours["state"].items():
            assert all(torch.equal(value, theirs["state"][key][name]) for name, value in entry.items())


def test_stage_2_goes_on_from_stage_2_under_another_loss(make: Make) -> None:
    stage1 = train.train(make("s1"))
    stage2 = train.train(make("s2", "stage=joint", f"stage.init={stage1}"))
    further = make("s2-gan", *gan("sisr"), "stage=joint", f"stage.init={stage2}", "trainer.precision=bf16")
    weights = load_file(train.train(further) / "weights.safetensors")
    before = load_file(stage2 / "weights.safetensors")
    assert weights.keys() == before.keys()
    frozen = [key for key in weights if key.startswith("cpen_s1")]
    assert frozen
    assert all(torch.equal(weights[key], before[key]) for key in frozen)
    assert all(value.isfinite().all() for value in weights.values())


def test_two_processes_train_with_a_discriminator(make: Make, tmp_path: Path) -> None:
    config = make("ddp", *gan("sisr"), "trainer.devices=2", "trainer.strategy=ddp", "trainer.progress=false")
    file = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.structured(config), file)
    script = (
        "import sys; from pathlib import Path; from omegaconf import OmegaConf; from diffi2i.schema import Config;"
        "from diffi2i.train import train;"
        "train(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(sys.argv[1]))))"
    )
    path = tmp_path / "main.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path), str(file)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert checkpoint(config.run_dir)["global_step"] == 4


def test_prior_only_is_refused_with_a_discriminator(make: Make) -> None:
    config = make("run", *gan("sisr"))
    config.stage.prior_only = 0.5
    with pytest.raises(UserError, match="cannot be joined with the discriminator"):
        check(config)


def test_schedules_end_where_the_paper_says(make: Make) -> None:
    deblur = make("deblur", "task=deblur", "train.steps=300000", "train.lr=2e-4").train
    assert [2e-4 * rate_factor(step, deblur) for step in (0, 150000, 300000)] == pytest.approx([2e-4, 1.005e-4, 1e-6])
    poly = make("poly", "train.schedule=poly", "train.warmup=0", "train.lr_end=0", "train.steps=160000").train
    assert [rate_factor(step, poly) for step in (0, 40000, 160000)] == pytest.approx([1, 0.75, 0])
    depth = make("depth", "train.warmup=0.3", "train.steps=1000").train
    assert rate_factor(149, depth) == pytest.approx(150 / 301)
    assert rate_factor(300, depth) == pytest.approx(1)
