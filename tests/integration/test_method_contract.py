"""What every method of `conf/method/` promises on every task, and how a method joins from outside the package."""

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

import diffi2i
from diffi2i.commands import train
from diffi2i.commands.bench import bench
from diffi2i.commands.eval import evaluate
from diffi2i.commands.predict import predict
from diffi2i.config.commands import BenchConfig, EvalConfig, PredictConfig
from diffi2i.config.compose import conf_dir, load
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.build import build_method, check, new_method
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from tests.adversaries import gan
from tests.conftest import Make, awake, random_batch, small
from tests.refusals import refusal
from tests.runs import result, weights
from tests.settings import CPU, TASKS

FILES: dict[str, Any] = {file.stem: OmegaConf.load(file) for file in sorted((conf_dir() / "method").glob("*.yaml"))}
METHODS = [name for name in FILES if "like_init" not in FILES[name]]  # which stands for the method of another run
Made = Callable[[str, str], tuple[Method, Any]]
DENSE = ("segmentation", "depth")
# A method with models of its own is for images, and one that repaints for holes. Both tasks of x4 are one here, where
# the batches are random, and so is a third task of images to a method of images alone.
PAIRS = [
    (name, task)
    for name in METHODS
    for task in TASKS
    if task != "realsr"
    and not ("models" in FILES[name] and task in (*DENSE, "deblur"))
    and not (name == "repaint" and task != "inpainting")
]
every = pytest.mark.parametrize(("name", "task"), PAIRS)
UNTRAINED = [name for name in METHODS if not resolve_name(FILES[name]["_target_"]).trains]
trained = pytest.mark.parametrize(("name", "task"), [pair for pair in PAIRS if pair[0] not in UNTRAINED])


@pytest.fixture(scope="module")
def made(images: Path) -> Made:
    """`made(name, task)`: a method ready to train, with random weights where it starts at zero, and a batch."""

    @cache
    def first(name: str, task: str) -> Method:
        loss = ("train.loss=l1",) if task == "realsr" else ()  # the weights of its own loss may be missing
        torch.manual_seed(0)
        return awake(build_method(load(Config, "train", [*small(task, images, name), *loss])))

    def copied(name: str, task: str) -> tuple[Method, Any]:
        method = deepcopy(first(name, task))
        # Attention over a single position would teach nothing.
        return method, random_batch(method.config, 64 if method.config.task.kind == "image" else 128)

    return copied


def shape_of(output: Tensor, batch: Batch, method: Method) -> None:
    """Images have the target's shape; labels and depth are scored at its size, and may be smaller."""
    task, (height, width) = method.config.task, batch["target"].shape[-2:]
    assert output.dtype == torch.float32
    if task.kind == "image":
        assert output.shape == batch["target"].shape
        return
    assert output.shape[:2] == (len(batch["name"]), task.classes if task.kind == "labels" else 1)
    assert 0 < output.shape[2] <= height
    assert 0 < output.shape[3] <= width


@every
@torch.no_grad()
def test_a_prediction_is_the_tasks(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    output = method.eval().predict(batch, method.noise(batch))
    shape_of(output, batch, method)
    assert output.isfinite().all()


# Half the precision takes twenty times as long where the processor has no instructions for it.
@pytest.mark.parametrize(
    ("name", "task"),
    [
        pair
        for pair in PAIRS
        if pair[0] == "diffi2i_s2" or pair[1] == ("inpainting" if pair[0] == "repaint" else "sisr")
    ],
)
@torch.no_grad()
def test_a_prediction_is_float32_under_autocast(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.eval()
    plain = method.predict(batch, method.noise(batch))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.predict(batch, method.noise(batch))
    shape_of(rounded, batch, method)
    assert not torch.equal(rounded, plain)  # autocast was on


@every
@torch.no_grad()
def test_a_prediction_depends_on_the_image_and_its_name_alone(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.eval()
    state = torch.get_rng_state()
    both = method.predict(batch, method.noise(batch))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(method.predict(batch, method.noise(batch)), both)
    turned: Any = {key: value.flip(0) if isinstance(value, Tensor) else value[::-1] for key, value in batch.items()}
    torch.testing.assert_close(method.predict(turned, method.noise(turned)).flip(0), both, rtol=1e-3, atol=1e-4)
    alone: Any = {key: value[1:] for key, value in batch.items()}
    torch.testing.assert_close(method.predict(alone, method.noise(alone)), both[1:], rtol=1e-3, atol=1e-4)


@every
@torch.no_grad()
def test_it_sees_the_target_where_it_says_so(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.eval()
    first, second = (
        method.predict(seen, method.noise(seen)) for seen in (batch, batch | {"target": batch["target"].flip(-1)})
    )
    assert torch.equal(first, second) == (not method.sees_target)


@every
@torch.no_grad()
def test_parts_hold_all_that_a_prediction_needs(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.eval()
    before = method.predict(batch, method.noise(batch))
    parts = method.parts()
    for key, child in list(method.named_children()):
        if child not in parts.values():
            delattr(method, key)
            setattr(method, key, None)
    assert torch.equal(method.predict(batch, method.noise(batch)), before)
    held = {id(weight) for part in parts.values() for weight in part.parameters()}
    assert held == {id(weight) for weight in method.parameters()}
    for key, part in parts.items():
        kept = {key: value.clone() for key, value in part.state_dict().items()}
        for weight in part.parameters():
            weight.mul_(1.5)
        assert not torch.equal(method.predict(batch, method.noise(batch)), before), key
        part.load_state_dict(kept)


@trained
def test_an_objective_draws_from_its_generator_alone(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.eval()  # without dropout, which draws from torch's own generator: training seeds it at every step

    def objective(seed: int) -> tuple[dict[str, Tensor], Tensor | None]:
        return method.objective(batch, torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    (terms, output), (again, same) = objective(1), objective(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert terms.keys() == again.keys()
    assert all(torch.equal(term, again[key]) and term.shape == () for key, term in terms.items())
    assert {term.dtype for term in terms.values()} <= {torch.float32}
    if not method.judged(method.options):
        assert output is None
        assert terms
        return
    assert output is not None
    assert same is not None
    assert torch.equal(output, same)
    shape_of(output, batch, method)


@trained
def test_gradients_reach_every_weight_that_trains(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
    trained = {key: weight for key, weight in method.named_parameters() if weight.requires_grad}
    assert trained
    assert not list(method.resting())
    assert [key for key, weight in trained.items() if weight.grad is None] == []
    still = [key for key, weight in trained.items() if not (weight.grad is not None and weight.grad.any())]
    if name == "no_prior":  # its Z is zero
        still = [key for key in still if "W_l." not in key]
    assert still == []
    assert all(weight.grad is None for weight in method.parameters() if not weight.requires_grad)


@every
@torch.no_grad()
def test_probes_are_predictions_under_another_image(made: Made, name: str, task: str) -> None:
    method, batch = made(name, task)
    method.eval()
    output = method.predict(batch, method.noise(batch))
    assert method.probes(batch, method.noise(batch)) == {}
    other = {key: value.flip(0) if isinstance(value, Tensor) else value[::-1] for key, value in batch.items()}
    probes = method.probes(batch | {"other": other}, method.noise(batch))
    with_prior = name.startswith(("diffi2i", "diffir"))
    assert probes.keys() == ({"prior_dependence"} if with_prior else set())
    for probe in probes.values():
        shape_of(probe, batch, method)
        assert not torch.equal(probe, output)
    # An image exchanged for itself changes nothing.
    for probe in method.probes(batch | {"other": batch}, method.noise(batch)).values():
        assert torch.equal(probe, output)
    validated = method.validation_step(batch | {"other": other})
    assert validated.keys() == {"output", *probes}
    assert torch.equal(validated["output"], output)


@pytest.mark.usefixtures("quick_bench")
@pytest.mark.parametrize("name", [name for name in METHODS if name not in UNTRAINED])
def test_it_is_measured_without_what_its_losses_need(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path))
    model = str(OmegaConf.select(FILES[name], "models.default", default="tiny"))
    settings = ["task=inpainting", "budget=paper", f"model={model}", f"method={name}"]
    config = load(Config, "train", settings)
    method = new_method(config)
    if method.judged(method.options):
        with pytest.raises(UserError, match="ADE20K ResNet-50 unavailable"):
            build_method(config)
    few = ["method.sampler.steps=2"] if "sampler" in FILES[name] and name not in ("diffi2i_s2", "diffir_s2") else []
    bench(BenchConfig(overrides=settings + few, size="32", repeats=1, trainer=CPU, output=str(tmp_path / "bench")))
    printed = capsys.readouterr().out
    assert all(f"{part}: " in printed for part in method.parts())
    size = sum(weight.numel() for part in method.parts().values() for weight in part.parameters())
    assert re.search(rf"\| +{size / 1e6:.3f} \|", printed)
    assert {file.name for file in (tmp_path / "bench").iterdir()} == {"bench.md", "bench.json", "bench.png"}


# --- the regressor, a guest --------------------


@pytest.mark.parametrize(
    ("task", "loss"),
    [(task, "own") for task in ("sisr", "inpainting", "segmentation", "depth")]
    + [(task, "gan") for task in ("sisr", "inpainting")],
)
def test_a_regressor_trains_and_is_scored(make: Make, task: str, loss: str, tmp_path: Path) -> None:
    settings = (f"task={task}", *(gan(task) if loss == "gan" else ()), "method=regressor")
    own = {key: p for key, p in build_method(make("x", *settings)).named_parameters() if key.startswith("network.")}
    run_dir = train.train(make("run", *settings))
    found, saved = result(run_dir), weights(run_dir)
    assert found.method.name == "regressor"
    assert (found.training.steps, found.training.network_steps) == (4, 4)
    assert isinstance(found.scores[found.main_metric].value, float)
    assert found.scores[found.main_metric].gains == {}
    assert own.keys() <= saved.keys()
    assert all(key.startswith("network.") for key in saved), "a discriminator was kept"
    assert found.cost.parameters == sum(weight.numel() for weight in own.values())
    its: dict[str, Any] = {"run": str(run_dir), "trainer": CPU, "trust": [__name__]}
    again = evaluate(EvalConfig(**its, output=str(tmp_path / "again")))
    assert result(again).scores == found.scores


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=regressor", "method.tlc=true"], "'method.tlc' is an option of method=diffi2i_s1 and diffi2i_s2"),
        (["method=diffi2i_s1", "method.prior_loss=l2"], "'method.prior_loss' is an option of method=diffi2i_s2"),
        (["method=diffi2i_s1", "method.foo=1"], "unknown key 'method.foo'"),
        (["method=diffi2i_s1", "method.priro=zero"], "unknown key 'method.priro': did you mean 'method.prior'?"),
        (["method=diffi2i_s1", "+method.foo=1"], "unknown key 'method.foo'"),
        (["method=regressor", "+method.tlc=true"], "'method.tlc' is an option of method=diffi2i_s1 and diffi2i_s2"),
        (["method=diffi2i_s2", "+method.diffusion.foo=1"], "unknown key 'method.diffusion.foo'"),
        (["method=diffi2i_s2", "method.prior_only=x"], "method.prior_only: value 'x' of type 'str' could not"),
        (["method=diffi2i_s2", "method.prior_only=1.5"], "method.prior_only=1.5 is a fraction of the steps"),
        (["method=diffi2i_s1", "method.tlc=maybe"], "method.tlc: value 'maybe' is not a valid bool"),
        (["method=diffi2i_s2", "method.prior_loss=l3"], "method.prior_loss=l3: choose one of l1, l2, kl"),
        (["method=diffi2i_s2", "method.diffusion.prediction=z"], "method.diffusion: prediction is 'z'; write one of"),
        (["method=diffi2i_s2", "method.diffusion.steps=0"], "method.diffusion needs steps above 0"),
        (["method=diffi2i_s2", "method.diffusion.beta_1=2"], "0 < beta_1 <= beta_T < 1, got 4, 2.0 and 0.99"),
        (
            ["method=diffi2i_s2", "method.sampler.steps=9"],
            "method.sampler: steps=9 does not fit a schedule of 4 steps: write 1 to 4",
        ),
        (["method=diffi2i_s2", "method.sampler.steps=[2,3]"], "steps=[2, 3] must increase within 1..4 and end at 4"),
        (["method=diffi2i_s2", "+method.sampler.eta=0.5"], "method.sampler: "),
        (["method=diffi2i_s2", "method.sampler._target_=diffi2i.diffusion.samplers.foo"], "method.sampler: "),
        (["method=regressor", "method._target_=diffi2i.methods.nothing.X"], "method._target_=diffi2i.methods.nothing"),
        (["method=regressor", "method._target_=torch.nn.Linear"], "is no diffi2i.methods.method.Method"),
        (["method=regresor"], "method=regresor is unknown: write method= one of autoencoder, "),
        (["method=regressor", "method.role=finetuned"], "method.role=finetuned: choose one of fresh, continued"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(
    make: Make, overrides: Sequence[str], words: str, tmp_path: Path
) -> None:
    assert words in refusal(lambda: train.train(make("run", *overrides)))
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_a_finished_one_of_its_task(make: Make) -> None:
    first = train.train(make("first", "task=inpainting", "train.steps=2"))
    for overrides, words in {
        ("task=inpainting", "task.fill=smooth"): "was trained with task.fill=black: write the same",
        ("task=deblur",): "was trained for task=inpainting: write task=inpainting",
    }.items():
        with pytest.raises(UserError, match=words):
            check(make("second", *overrides, f"method.init={first}"))
    (first / "result.json").unlink()
    with pytest.raises(UserError, match="is unfinished: run its `diffi2i train"):
        check(make("second", "task=inpainting", f"method.init={first}"))


def test_a_run_is_scored_under_settings_of_scoring_alone(make: Make) -> None:
    first = train.train(make("s1", "train.steps=2"))
    run = str(train.train(make("s2", "train.steps=2", "method=diffi2i_s2", f"method.init={first}")))
    for change, words in {
        "train.steps=3": "set=train.steps: not a setting under which a run can be scored",
        "seed=1": "set=seed: not a setting",
        "method.init=null": "set=method.init: not a setting",
        "method.diffusion.steps=8": "the run was made with it: of its method write one of method.sampler",
        "method.role=fresh": "set=method.role: not a setting",
        "method._target_=torch.nn.Linear": "set=method._target_: not a setting",
        "method.foo=1": "unknown key 'method.foo'",
        "task.protocol.foo=1": "unknown key 'task.protocol.foo'",
        "method.sampler.steps=9": "method.sampler: steps=9 does not fit a schedule of 4 steps",
        "method.prior_loss=l2": "set=method.prior_loss: the run was made with it",
        "method.tlc=maybe": "method.tlc: value 'maybe' is not a valid bool",
        "task.protocol.border=-1": "task.protocol.border=-1 must be 0 or more pixels",
        "task.protocol.border=": "task.protocol.border",
        "nonsense": "cannot read 'nonsense'",
    }.items():
        assert words in refusal(evaluate, EvalConfig(run=run, trainer=CPU, set=[change])), change


# --- guests from elsewhere --------------------


@dataclass
class SharpenOptions:
    """`sigma` of the blur in pixels, `amount` of what it took away that is put back on top."""

    sigma: float = 1.0
    amount: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise UserError(f"method.sigma={self.sigma} must be above 0")


class BlurThenSharpen(Method):
    """Unsharp masking: nothing to train."""

    Options: ClassVar[type] = SharpenOptions
    options: SharpenOptions
    trains = False

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        image = F.interpolate(batch["input"], scale_factor=self.config.task.scale, mode="bicubic", antialias=True)
        blurred = gaussian_blur(image, [5, 5], [self.options.sigma])
        sharpened: Tensor = image + self.options.amount * (image - blurred)
        return sharpened

    def parts(self) -> dict[str, nn.Module]:
        return {}


class MatchMeans(Method):
    """Learns by a term of its own alone, without L_task: one shift for each colour."""

    def __init__(self, config: Any, init: "MatchMeans | None" = None) -> None:
        super().__init__(config)
        self.shift = nn.Conv2d(3, 3, 1, groups=3)
        if init is not None:
            self.load_state_dict(init.state_dict())

    @classmethod
    def judged(cls, options: Any) -> bool:
        return False

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], None]:
        means = (self.shift(batch["input"]).mean((2, 3)), batch["target"].mean((2, 3)))
        return {"loss_mean": F.mse_loss(*means)}, None

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        image = F.interpolate(batch["input"], scale_factor=self.config.task.scale, mode="bicubic")
        output: Tensor = self.shift(image)
        return output.float()

    def parts(self) -> dict[str, nn.Module]:
        return {"shift": self.shift}


@pytest.fixture
def sharpen(tmp_path: Path) -> tuple[str, str]:
    """One class and one YAML file: a method of its own."""
    folder = tmp_path / "conf" / "method"
    folder.mkdir(parents=True)
    (folder / "sharpen.yaml").write_text(
        f"_target_: {__name__}.BlurThenSharpen\nname: sharpen\ninit: null\nrole: fresh\nsigma: 1.0\namount: 0.5\n"
    )
    return f"hydra.searchpath=[file://{folder.parent}]", "method=sharpen"


@pytest.mark.parametrize("task", ["sisr", "deblur"])
def test_a_method_without_training_is_scored_at_once(
    make: Make, sharpen: tuple[str, str], task: str, images: Path, tmp_path: Path, capsys: Any
) -> None:
    run_dir = train.train(make("run", *sharpen, f"task={task}"))
    assert "step" not in capsys.readouterr().out
    found = result(run_dir)
    assert (found.method.name, found.cost.parameters) == ("sharpen", 0)
    assert (found.training.steps, found.training.network_steps, found.training.loss) == (0, 0, None)
    assert found.scores["psnr"].value != found.scores["psnr"].baseline
    its: dict[str, Any] = {"run": str(run_dir), "trainer": CPU, "trust": [__name__]}
    again = evaluate(EvalConfig(**its, output=str(tmp_path / "again")))
    assert result(again).scores == found.scores
    other = evaluate(EvalConfig(**its, set=["method.amount=0"], output=str(tmp_path / "plain")))
    assert result(other).scores != found.scores
    if task == "deblur":
        assert result(other).scores["psnr"].value == pytest.approx(found.scores["psnr"].baseline, abs=1e-4)
    assert train.train(make("run", *sharpen, f"task={task}")) == run_dir
    assert "finished: nothing to do" in capsys.readouterr().out

    file = sorted(images.iterdir())[0]
    predict(PredictConfig(**its, input=str(file), output=str(tmp_path / "out")))
    with Image.open(file) as image, Image.open(tmp_path / "out" / file.name) as output:
        scale = found.data.protocol["border"] or 1  # of sisr the scale
        assert output.size == (image.width * scale, image.height * scale)
        assert np.asarray(output).std() > 0


def test_its_options_are_checked_like_any_others(make: Make, sharpen: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"method\.sigma=-1\.0 must be above 0"):
        check(make("run", *sharpen, "method.sigma=-1"))
    with pytest.raises(UserError, match=r"unknown key 'method\.radius'"):
        check(make("run", *sharpen, "method.radius=1"))


def test_a_method_without_l_task_trains_and_goes_on(make: Make, tmp_path: Path) -> None:
    guest = ("method=regressor", f"method._target_={__name__}.MatchMeans", "method.name=means", "train.lr=0.1")
    first = train.train(make("first", *guest))
    found = result(first)
    assert (found.method.name, found.cost.parameters) == ("means", 6)
    assert (found.training.steps, found.training.loss) == (4, None)
    onward = (*guest, "method.role=continued", f"method.init={first}")
    assert f"write trust={__name__}" in refusal(train.train, make("second", *onward))
    second = train.train(make("second", *onward, f"trust={__name__}"))
    assert result(second).training.network_steps == 8
    one, two = (weights(run) for run in (first, second))
    assert one.keys() == two.keys() == {"shift.weight", "shift.bias"}
    assert not torch.equal(one["shift.bias"], two["shift.bias"])
    with pytest.raises(UserError, match="is a run of means, from which no regressor starts"):
        check(make("third", "method=regressor", f"method.init={first}", f"trust={__name__}"))


# --- who knows whom --------------------


def test_no_method_is_named_outside_its_room() -> None:
    root = Path(diffi2i.__file__).parent
    # An autoencoder is a kind of network, too, and int8 one of numbers; an equation's source may be its name.
    names = [name for name in FILES if name not in ("autoencoder", "int8")]
    apart = ("repainting.py", "chain.py", "consistency.py", "adapter.py")
    words = re.compile(rf"\b({'|'.join(names)}|stage[ -][12])\b", re.IGNORECASE)
    offenders = [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        if file.relative_to(root).parts[0] != "methods" and file.name not in apart
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert offenders == []
