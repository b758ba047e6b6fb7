"""The step with a discriminator: both networks move, steps are counted once, and a resumed run is the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from diffi2i.commands import train
from diffi2i.errors import UserError
from diffi2i.methods.build import check
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.optimisation import rate_factor
from tests.adversaries import ADVERSARIES, PATCH, UNET, gan
from tests.conftest import Make
from tests.interruption import InterruptedRunError, stop_before_step
from tests.processes import script
from tests.runs import result, weights


def checkpoint(run_dir: Path | str | None) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(Path(str(run_dir)) / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def discriminator(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.startswith("task_loss.") and value.is_floating_point()}


@pytest.mark.parametrize("task", ["sisr", "inpainting"])
def test_both_networks_move_and_only_the_generators_steps_are_counted(make: Make, task: str, monkeypatch: Any) -> None:
    before: dict[str, torch.Tensor] = {}
    start = DiffI2IS1.configure_optimizers

    def watched(self: DiffI2IS1) -> Any:
        before.update({key: value.clone() for key, value in self.state_dict().items()})
        both = start(self)
        ours, theirs = ({id(p) for g in one["optimizer"].param_groups for p in g["params"]} for one in both)
        named = {id(parameter): name for name, parameter in self.named_parameters()}
        assert ours | theirs == named.keys()
        assert not ours & theirs
        assert all(named[key].startswith("task_loss.adversary.discriminator") for key in theirs)
        return both

    monkeypatch.setattr(DiffI2IS1, "configure_optimizers", watched)
    run_dir = train.train(make("run", *gan(task)))
    last = checkpoint(run_dir)
    assert last["global_step"] == 4
    assert [len({entry["step"].item() for entry in o["state"].values()}) for o in last["optimizer_states"]] == [1, 1]
    assert all(entry["step"] == 4 for o in last["optimizer_states"] for entry in o["state"].values())
    rates = [o["param_groups"][0]["lr"] for o in last["optimizer_states"]]
    assert rates[1] == pytest.approx(0.5 * rates[0])
    moved = {key for key, value in last["current_model_state"].items() if not torch.equal(value, before[key])}
    assert any(key.startswith("network") for key in moved)
    assert any(key.startswith("task_loss.") for key in moved)
    assert not any(key.startswith("task_loss") for key in weights(run_dir))


def test_the_discriminator_rests_until_it_joins(make: Make, monkeypatch: Any) -> None:
    states = []
    start = DiffI2IS1.on_train_batch_start

    def watched(self: DiffI2IS1, batch: Any, batch_idx: int) -> Any:
        states.append({key: value.clone() for key, value in discriminator(self.state_dict()).items()})
        return start(self, batch, batch_idx)

    monkeypatch.setattr(DiffI2IS1, "on_train_batch_start", watched)
    run_dir = train.train(make("run", *gan("sisr"), "train.adversarial_from=0.5"))
    last = checkpoint(run_dir)
    assert all(entry["step"] == 2 for entry in last["optimizer_states"][1]["state"].values())
    assert all(torch.equal(states[2][key], value) for key, value in states[0].items())
    assert not any(torch.equal(states[3][key], value) for key, value in states[2].items())
    never = train.train(make("never", *gan("sisr"), "train.adversarial_from=1"))
    assert checkpoint(never)["optimizer_states"][1]["state"] == {}
    kept = discriminator(checkpoint(never)["current_model_state"])
    assert all(torch.equal(kept[key], value) for key, value in states[0].items())


class Plain(torch.nn.Module):
    """A critic without any norm, so that batches may be cut up; as smooth as it is small."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3)
        self.second = torch.nn.Conv2d(4, 1, 3)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = self.first(image).tanh()
        return self.second(features), [features]


# Adam divides by the gradient's size, which turns rounding into steps: plain descent does not.
DESCENT = ("task.optimizer._target_=torch.optim.SGD", "~task.optimizer.betas", "train.lr=0.05", "train.batch=4")


def plain(task: str) -> tuple[str, ...]:
    critic = "{_target_: tests.integration.test_step.Plain}"
    return (*gan(task, ADVERSARIES[task].replace(UNET, critic).replace(PATCH, critic)), *DESCENT)


def largest_difference(run_dir: Path | str | None, other: Path | str | None) -> dict[str, float]:
    """Of the weights of the discriminator and of the rest after the last step."""
    one, two = (checkpoint(run)["current_model_state"] for run in (run_dir, other))
    difference = {key: float((value - two[key]).abs().max()) for key, value in one.items() if value.numel()}
    theirs = {key for key in difference if key.startswith("task_loss.")}
    assert theirs
    return {
        "discriminator": max(difference[key] for key in theirs),
        "generator": max(difference[key] for key in difference.keys() - theirs),
    }


TO_EACH = "trainer.device_batch=1"  # image, noise of its own


@pytest.mark.parametrize(("task", "clip"), [("sisr", "null"), ("inpainting", "0.05")])
def test_accumulated_batches_equal_one_batch(make: Make, task: str, clip: str) -> None:
    # R1 and LaMa's matching of features are means over images as well.
    settings = (*plain(task), f"train.clip={clip}", "train.adversarial_from=0.25", "train.lr=0.02")
    one = train.train(make("one", *settings))
    two = train.train(make("two", *settings, "trainer.device_batch=2"))
    assert checkpoint(two)["global_step"] == 4
    # A rate that is off by a tenth is found, and so would be a forgotten factor.
    other = largest_difference(one, train.train(make("other", *settings, "train.lr=0.022")))
    for part, difference in largest_difference(one, two).items():
        assert difference < 1e-6 < 0.1 * other[part]


def test_saved_weights_are_the_averaged_ones(make: Make, monkeypatch: Any) -> None:
    path: list[dict[str, torch.Tensor]] = []
    original = DiffI2IS1.step_both

    def recorded(self: Any, adversarial: bool) -> None:
        original(self, adversarial)
        path.append({key: value.detach().clone() for key, value in self.state_dict().items()})

    monkeypatch.setattr(DiffI2IS1, "step_both", recorded)
    run_dir = train.train(make("averaged", *gan("sisr"), "train.ema_decay=0.7", "trainer.device_batch=1"))
    assert len(path) == 4
    average = path[0]
    for state in path[1:]:
        average = {key: 0.7 * average[key] + 0.3 * value for key, value in state.items()}
    saved = weights(run_dir)
    for key, value in saved.items():
        torch.testing.assert_close(value, average[key], rtol=1e-5, atol=1e-7)
    assert not torch.equal(saved["network.embed.weight"], path[-1]["network.embed.weight"])


@pytest.mark.parametrize("task", ["sisr", "inpainting"])
def test_bf16_keeps_losses_and_weights_in_float32(make: Make, task: str, autocast_losses: list[torch.Tensor]) -> None:
    run_dir = train.train(make("bf16", *gan(task), "trainer.precision=bf16"))
    assert {loss.dtype for loss in autocast_losses} == {torch.float32}
    state = checkpoint(run_dir)["current_model_state"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert all(value.isfinite().all() for value in state.values())


# With 0.5 the discriminator joins after the checkpoint.
@pytest.mark.parametrize(("task", "joins"), [("sisr", 0.0), ("sisr", 0.5), ("inpainting", 0.0)])
def test_interrupted_and_resumed_equals_uninterrupted(make: Make, monkeypatch: Any, task: str, joins: float) -> None:
    settings = (*gan(task), "train.steps=6", f"train.adversarial_from={joins}", "trainer.device_batch=1")
    whole = train.train(make("whole", *settings))
    config = make("broken", *settings)
    with monkeypatch.context() as patch:
        stop_before_step(3, patch)
        with pytest.raises(InterruptedRunError):
            train.train(config)
    assert checkpoint(config.run_dir)["global_step"] == 2
    train.train(config)
    one, two = checkpoint(whole), checkpoint(config.run_dir)
    for part in ("state_dict", "current_model_state"):
        assert discriminator(one[part])
        assert all(torch.equal(one[part][key], two[part][key]) for key in one[part])
    assert one["lr_schedulers"] == two["lr_schedulers"]
    assert len(one["optimizer_states"]) == 2
    for ours, theirs in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        assert ours["state"]
        assert ours["state"].keys() == theirs["state"].keys()
        for key, entry in ours["state"].items():
            assert all(torch.equal(value, theirs["state"][key][name]) for name, value in entry.items())


def test_stage_2_goes_on_from_stage_2_under_another_loss(make: Make, stage1: Path) -> None:
    stage2 = train.train(make("s2", "method=diffi2i_s2", f"method.init={stage1}"))
    further = make("s2-gan", *gan("sisr"), "method=diffi2i_s2", f"method.init={stage2}", "trainer.precision=bf16")
    after = weights(train.train(further))
    before = weights(stage2)
    assert after.keys() == before.keys()
    frozen = [key for key in after if key.startswith("cpen_s1")]
    assert frozen
    assert all(torch.equal(after[key], before[key]) for key in frozen)
    assert all(value.isfinite().all() for value in after.values())


def test_two_processes_train_and_score_as_one_does(make: Make, tmp_path: Path, stage1: Path) -> None:
    """Also where weights rest: the discriminator's until it joins, the network's while the prior learns alone."""
    settings = {
        "gan": (*plain("sisr"), "train.adversarial_from=0.5"),
        "diffusion": ("method=pixel_diffusion",),
        "prior": ("method=diffi2i_s2", f"method.init={stage1}", "method.prior_only=0.5", "train.clip=0.1"),
    }
    files = []
    for name, overrides in settings.items():
        files.append(str(tmp_path / f"{name}.yaml"))
        OmegaConf.save(OmegaConf.structured(make(name, *overrides, "trainer.devices=2", TO_EACH)), files[-1])
    code = (
        "import sys; from omegaconf import OmegaConf; from diffi2i.config.schema import Config;"
        "from diffi2i.commands.train import train;"
        "[train(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(file))))"
        " for file in sys.argv[1:]]"
    )
    path = tmp_path / "main.py"
    path.write_text(code)
    done = script(path, *files)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, overrides in settings.items():
        one, two = train.train(make(f"{name}-one", *overrides, TO_EACH)), tmp_path / name
        assert checkpoint(two)["global_step"] == 4
        ours, theirs = (checkpoint(run)["current_model_state"] for run in (one, two))
        assert max(float((value - theirs[key]).abs().max()) for key, value in ours.items() if value.numel()) < 1e-6
        states = [checkpoint(run)["optimizer_states"] for run in (one, two)]
        counts = [[float(of.get("step", 0)) for each in state for of in each["state"].values()] for state in states]
        assert counts[0] == counts[1]
        assert (len(set(counts[0])) > 1) == (name == "prior")
        for key, score in result(one).scores.items():
            assert result(two).scores[key].value == pytest.approx(score.value, abs=1e-4)


def test_prior_only_is_refused_with_a_discriminator(make: Make) -> None:
    config = make("run", *gan("sisr"), "method=diffi2i_s2", "method.prior_only=0.5")
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
