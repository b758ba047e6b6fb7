"""The controls: a network without a prior, and a stage 1 that is trained on; and what may start from what."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffi2i import config as configuration
from diffi2i import train
from diffi2i.errors import UserError
from diffi2i.losses.pixel import L1
from diffi2i.losses.task import TaskLoss
from diffi2i.schema import Config
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from tests.conftest import SMALL, Make
from tests.test_resume import record
from tests.test_stages import dense_batch, random_batch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
TASKS = ("sisr", "inpainting", "segmentation", "depth")


def batch_of(config: Config) -> dict[str, Any]:
    return random_batch(config) if config.task.kind == "image" else dense_batch(config)


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_without_a_prior_nothing_of_the_target_is_seen(make: Make, task: str) -> None:
    torch.manual_seed(0)
    stage = DiffI2IS1(make("x", f"task={task}", "method=no_prior")).eval()
    assert stage.cpen_s1 is None
    assert [name for name, _ in stage.named_parameters() if not name.startswith("di2iformer.")] == []
    batch = batch_of(stage.config)
    other = batch | {"target": batch["target"].flip(-1)}
    assert torch.equal(method.prior(batch), torch.zeros(2, 16))
    assert torch.equal(stage.averaged(batch), stage.averaged(other))
    assert "exchanged" not in stage.validation_step(batch | {"other": other})


@pytest.mark.parametrize("task", TASKS)
def test_it_starts_from_the_same_weights_as_stage_1(make: Make, task: str) -> None:
    def initial(stage: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return DiffI2IS1(make("x", f"task={task}", f"stage={stage}")).di2iformer.state_dict()

    with_prior, without = initial("pretrain"), initial("no_prior")
    assert with_prior.keys() == without.keys()
    assert all(torch.equal(value, without[key]) for key, value in with_prior.items())


@pytest.mark.parametrize("task", ["sisr", "inpainting"])
def test_every_weight_that_can_learn_does(make: Make, task: str) -> None:
    torch.manual_seed(0)
    stage = DiffI2IS1(make("x", f"task={task}", "method=no_prior"), None, TaskLoss({"l1": L1()}))
    stage.training_step(random_batch(stage.config), 0).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in stage.parameters())
    still = [name for name, p in stage.named_parameters() if p.grad is not None and not p.grad.any()]
    assert still
    assert all(name.endswith("W_l.weight") for name in still)  # what multiplies Z


def test_a_run_without_a_prior_says_so_in_its_record(make: Make) -> None:
    run_dir = train.train(make("run", "method=no_prior"))
    found, with_prior = record(run_dir), record(train.train(make("s1")))
    assert (found["stage"], found["prior"], found["budget"]) == ("pretrain", "zero", "pretrain")
    assert found["metrics"]["prior_dependence"] is None
    assert with_prior["metrics"]["prior_dependence"] is not None
    assert found["network_steps"] == with_prior["network_steps"] == 4
    assert found["parameters"] < with_prior["parameters"]
    assert not [key for key in load_file(run_dir / "weights.safetensors") if key.startswith("cpen")]


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished stage 1, a run without a prior, and a stage 2."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, *overrides: str) -> Path:
        settings = [*SMALL, f"root={images}", "task=sisr", "train.steps=2", f"run_dir={folder / name}", *overrides]
        return train.train(configuration.load(Config, "train", settings))

    first = run("s1")
    return {
        "s1": first,
        "zero": run("zero", "method=no_prior"),
        "s2": run("s2", "method=diffi2i_s2", f"method.init={first}"),
        "v1": run("v1", "method=diffi2i_s2", f"method.init={first}", "method.prior=none"),
    }


@pytest.mark.parametrize(("kind", "name"), [("pretrain", "s1"), ("no_prior", "zero")])
def test_training_on_starts_from_exactly_those_weights(
    make: Make, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    started: list[dict[str, torch.Tensor]] = []
    start = DiffI2IS1.on_train_start

    def watched(self: DiffI2IS1) -> None:
        started.append({key: value.clone() for key, value in self.state_dict().items()})
        start(self)

    monkeypatch.setattr(DiffI2IS1, "on_train_start", watched)
    config = make("on", f"stage={kind}", "method.role=continued", f"method.init={runs[name]}", "train.steps=3")
    found = record(train.train(config))
    theirs = load_file(runs[name] / "weights.safetensors")
    assert started[0].keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in started[0].items())
    assert (found["steps"], found["network_steps"], found["budget"]) == (3, 5, "joint")
    assert found["init"]["network_steps"] == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=diffi2i_s2", "method.init={zero}"], "has no prior to go on with: name a run of method=diffi2i_s1"),
        (["method=diffi2i_s1", "method.init={zero}"], "has no prior to go on with"),
        (
            ["method=diffi2i_s1", "method.init={s2}"],
            "is a stage 2, from which no stage 1 starts: write method=diffi2i_s2",
        ),
        (["method=no_prior", "method.init={s2}"], "is a stage 2, from which no stage 1 starts"),
        (["method=no_prior", "method.init={s1}"], "has method.prior=truth: write method.prior=truth"),
        (["method=diffi2i_s2", "method.init={v1}"], "has method.prior=none: write method.prior=none"),
        (
            ["method=diffi2i_s2", "method.prior=none", "method.init={s2}"],
            "has method.prior=joint: write method.prior=joint",
        ),
        (["method=diffi2i_s1", "method.prior=joint"], "is not for method=diffi2i_s1: choose one of truth, zero"),
        (
            ["method=diffi2i_s2", "method.prior=zero", "method.init={s1}"],
            "is not for method=diffi2i_s2: choose one of joint, none",
        ),
        (["method=diffi2i_s2", "method.init={nothing}"], "is no run directory"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(
    runs: dict[str, Path], images: Path, overrides: list[str], words: str
) -> None:
    places = {**runs, "nothing": images}
    with pytest.raises(UserError) as error:
        configuration.load(
            Config, "train", [*SMALL, f"root={images}", "task=sisr", *(text.format(**places) for text in overrides)]
        )
    assert words in str(error.value)
    assert "\n" not in str(error.value)
