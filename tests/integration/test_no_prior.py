"""The controls: a network without a prior, and a stage 1 that is trained on; and what may start from what."""

from pathlib import Path

import pytest
import torch

from diffi2i.commands import train
from diffi2i.commands.predict import predict
from diffi2i.config import compose
from diffi2i.config.commands import PredictConfig
from diffi2i.config.schema import Config
from diffi2i.methods.build import check
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.method import Method
from tests.conftest import SMALL, Make, random_batch, with_l1
from tests.refusals import refusal
from tests.runs import result, weights
from tests.settings import CPU

TASKS = ("sisr", "inpainting", "segmentation", "depth")


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_without_a_prior_nothing_of_the_target_is_seen(make: Make, task: str) -> None:
    torch.manual_seed(0)
    method = DiffI2IS1(make("x", f"task={task}", "method=no_prior")).eval()
    assert method.cpen_s1 is None
    assert [name for name, _ in method.named_parameters() if not name.startswith("network.")] == []
    batch = random_batch(method.config)
    other = batch | {"target": batch["target"].flip(-1)}
    assert torch.equal(method.prior(method.seen(batch), batch), torch.zeros(2, 16))
    assert torch.equal(method.averaged(batch), method.averaged(other))
    assert method.validation_step(batch | {"other": other}).keys() == {"output"}


@pytest.mark.parametrize("task", TASKS)
def test_it_starts_from_the_same_weights_as_stage_1(make: Make, task: str) -> None:
    def initial(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return DiffI2IS1(make("x", f"task={task}", f"method={name}")).network.state_dict()

    with_prior, without = initial("diffi2i_s1"), initial("no_prior")
    assert with_prior.keys() == without.keys()
    assert all(torch.equal(value, without[key]) for key, value in with_prior.items())


@pytest.mark.parametrize("task", ["sisr", "inpainting"])
def test_every_weight_that_can_learn_does(make: Make, task: str) -> None:
    torch.manual_seed(0)
    method = with_l1(DiffI2IS1(make("x", f"task={task}", "method=no_prior")))
    method.training_step(random_batch(method.config), 0).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in method.parameters())
    still = [name for name, p in method.named_parameters() if p.grad is not None and not p.grad.any()]
    assert still
    assert all(name.endswith("W_l.weight") for name in still)  # what multiplies Z


def test_a_run_without_a_prior_says_so_in_its_record(make: Make, stage1: Path) -> None:
    run_dir = train.train(make("run", "method=no_prior"))
    found, with_prior = result(run_dir), result(stage1)
    assert (found.method.name, found.method.label, found.method.sees_target) == ("no_prior", "no prior", False)
    assert found.method.options["prior"] == "zero"
    assert found.scores[found.main_metric].gains == {}
    assert with_prior.scores[found.main_metric].gains.keys() == {"prior_dependence"}
    assert found.training.network_steps == with_prior.training.network_steps == 4
    assert found.cost.parameters < with_prior.cost.parameters
    assert not [key for key in weights(run_dir) if key.startswith("cpen")]


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished stage 1, a run without a prior, and a stage 2."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, *overrides: str) -> Path:
        settings = [*SMALL, f"root={images}", "task=sisr", "train.steps=2", f"run_dir={folder / name}", *overrides]
        return train.train(compose.load(Config, "train", settings))

    first = run("s1")
    return {
        "s1": first,
        "zero": run("zero", "method=no_prior"),
        "regressor": run("regressor", "method=regressor"),
        "s2": run("s2", "method=diffi2i_s2", f"method.init={first}"),
        "v1": run("v1", "method=diffi2i_s2", f"method.init={first}", "method.prior=none"),
        "blind": run("blind", "method.prior=zero"),
    }


def test_it_restores_new_images(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    predict(PredictConfig(run=str(runs["zero"]), input=str(images), output=str(tmp_path), trainer=CPU))
    assert len(list(tmp_path.glob("[!.]*"))) == 12


@pytest.mark.parametrize(("kind", "name"), [("diffi2i_s1", "s1"), ("no_prior", "zero"), ("regressor", "regressor")])
def test_training_on_starts_from_exactly_those_weights(
    make: Make, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    started: list[dict[str, torch.Tensor]] = []
    start = Method.on_train_start

    def watched(self: Method) -> None:
        started.append({key: value.clone() for key, value in self.state_dict().items()})
        start(self)

    monkeypatch.setattr(Method, "on_train_start", watched)
    config = make("on", f"method={kind}", "method.role=continued", f"method.init={runs[name]}", "train.steps=3")
    found = result(train.train(config))
    theirs = weights(runs[name])
    assert started[0].keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in started[0].items())
    assert (found.training.steps, found.training.network_steps, found.method.name) == (3, 5, kind)
    assert found.method.init.network_steps == 2
    assert found.method.init.method == result(runs[name]).method.name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=diffi2i_s2", "method.init={zero}"], "has no prior to go on with: name a run of method=diffi2i_s1"),
        (["method=diffi2i_s2", "method.init={blind}"], "has no prior to go on with: name a run of method=diffi2i_s1"),
        (["method=diffi2i_s1", "method.init={zero}"], "is a run of no_prior, from which no diffi2i_s1 starts"),
        (["method=diffi2i_s1", "method.init={blind}"], "has method.prior=zero: write method.prior=zero"),
        (["method=diffi2i_s1", "method.init={s2}"], "is a run of diffi2i_s2, from which no diffi2i_s1 starts: name a"),
        (["method=no_prior", "method.init={s2}"], "is a run of diffi2i_s2, from which no no_prior starts: name a run"),
        (["method=no_prior", "method.init={s1}"], "from which no no_prior starts: name a run of method=no_prior"),
        (
            ["method=regressor", "method.init={s1}"],
            "is a run of diffi2i_s1, from which no regressor starts: name a run",
        ),
        (["method=diffi2i_s2", "method.init={regressor}"], "has no prior to go on with: name a run of"),
        (["method=regressor", "method.init={regressor}", "model.network.width=8"], "write model.network.width=4"),
        (["method=diffi2i_s2", "method.init={v1}"], "has method.prior=none: write method.prior=none"),
        (
            ["method=diffi2i_s2", "method.prior=none", "method.init={s2}"],
            "has method.prior=joint: write method.prior=joint",
        ),
        (["method=diffi2i_s1", "method.prior=joint"], "method.prior=joint: choose one of truth, zero"),
        (
            ["method=diffi2i_s2", "method.prior=zero", "method.init={s1}"],
            "method.prior=zero: choose one of joint, none",
        ),
        (["method=diffi2i_s2"], "needs stage 1's weights: write method.init="),
        (["method=diffi2i_s2", "method.role=adversarial", "method.init={s1}"], "is a stage 1"),
        (["method=diffi2i_s1", "method.role=adversarial"], "goes on from a finished run: write method.init="),
        (["method=diffi2i_s2", "method.init={nothing}"], "is no run directory"),
        (["method=diffi2i_s1", "method.init={s1}", "model.network.width=8"], "write model.network.width=4"),
        (["method=diffi2i_s2", "method.init={s1}", "model.network.width=8"], "write model.network.width=4"),
        (["method=diffi2i_s2", "method.init={s2}", "model.denoiser_layers=2"], "write model.denoiser_layers=1"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(
    runs: dict[str, Path], images: Path, overrides: list[str], words: str
) -> None:
    places = {**runs, "nothing": images}
    settings = [*SMALL, f"root={images}", "task=sisr", *(text.format(**places) for text in overrides)]
    assert words in refusal(lambda: check(compose.load(Config, "train", settings)))
