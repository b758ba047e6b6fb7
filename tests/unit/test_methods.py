"""What DiffI2I's two stages train, freeze and start from, and what every method has from its base."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from diffi2i.data.dataset import centred
from diffi2i.kinds import image
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.method import Method
from diffi2i.methods.noise import noise_for, step_generator
from diffi2i.methods.optimisation import rate_factor
from tests.conftest import Make, awake, random_batch, with_l1
from tests.settings import train_config

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


def stage_2(make: Make, *options: str) -> tuple[DiffI2IS2, DiffI2IS1]:
    """A stage 2 of inpainting and the stage 1 that it starts from."""
    torch.manual_seed(0)
    settings = ("task=inpainting", *options)
    first = DiffI2IS1(make("s1", "task=inpainting"))
    return with_l1(DiffI2IS2(make("s2", "method=diffi2i_s2", *settings), first)), first


def backward(method: Method, batch: Any, steps: int) -> None:
    """Leaves the gradients of a step that comes after so many, in which what starts at zero has moved.

    Zeros lie one behind the other: in stage 2 the denoiser's last layer, then a second convolution of each block.
    """
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(steps):
        method.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        method.zero_grad()
    method.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]


def without_gradient(module: torch.nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("task", ["sisr", "inpainting"])
def test_every_weight_of_stage_1_gets_a_gradient(make: Make, task: str) -> None:
    method = with_l1(DiffI2IS1(make("s1", f"task={task}")))
    backward(method, random_batch(method.config), 1)
    assert without_gradient(method) == []


@pytest.mark.parametrize("prior", ["joint", "none"])
@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_every_trainable_weight_of_stage_2_gets_a_gradient(make: Make, prior: str, prediction: str) -> None:
    method, _ = stage_2(make, f"method.prior={prior}", f"method.diffusion.prediction={prediction}")
    backward(method, random_batch(method.config), 2)
    assert without_gradient(method) == []
    assert [name for name, p in method.named_parameters() if name.startswith("cpen_s1.") and p.grad is not None] == []


def test_the_traditional_objective_trains_the_prior_alone(make: Make) -> None:
    method, _ = stage_2(make, "method.prior=traditional")
    backward(method, random_batch(method.config), 2)
    assert without_gradient(method.cpen_s2) == []
    assert method.denoiser is not None
    assert without_gradient(method.denoiser) == []
    assert all(p.grad is None and not p.requires_grad for p in method.network.parameters())


def test_stage_2_starts_bit_equal_to_stage_1(make: Make) -> None:
    method, first = stage_2(make)
    ours, theirs = method.state_dict(), first.state_dict()
    assert any(key.startswith("cpen_s1.") for key in theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_cpen_s1_is_in_no_optimiser_group_and_does_not_change(make: Make) -> None:
    method, _ = stage_2(make)
    assert method.cpen_s1 is not None
    configured: Any = method.configure_optimizers()
    optimizer = configured[0]["optimizer"]
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in method.cpen_s1.parameters()}
    others = {key: p for key, p in method.named_parameters() if not key.startswith("cpen_s1.")}
    assert optimised == {id(p) for p in others.values()}
    frozen, before = snapshot(method.cpen_s1), {key: value.detach().clone() for key, value in others.items()}
    for _ in range(3):
        optimizer.zero_grad()
        method.training_step(random_batch(method.config), 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(torch.equal(value, frozen[key]) for key, value in method.cpen_s1.state_dict().items())
    still = [key for key, value in others.items() if torch.equal(value, before[key])]
    assert still == []


def test_the_loss_on_the_prior_has_its_weight_beside_the_one_on_the_task(make: Make) -> None:
    def step(weight: float) -> tuple[float, Tensor | None]:
        """What is beside L_task, and the gradient of the network, which L_diff does not reach."""
        method, _ = stage_2(make, f"method.prior_weight={weight}")
        batch = random_batch(method.config)
        total = method.training_step(batch, 0)
        total.backward()  # type: ignore[no-untyped-call]
        _, output = method.objective(batch, step_generator(method.config.seed, *method.place(0)))
        assert output is not None
        of_task = (output.double() - batch["target"].double()).abs().mean()
        return total.item() - of_task.item(), method.network.embed.weight.grad  # type: ignore[union-attr, return-value]

    (whole, gradient), (part, same) = step(1.0), step(0.3)
    assert whole > 0.01
    assert part == pytest.approx(0.3 * whole, rel=1e-4)
    torch.testing.assert_close(gradient, same)


@pytest.mark.parametrize("prior", ["joint", "none", "traditional"])
def test_cpens_see_the_context_and_the_network_its_centre(make: Make, prior: str) -> None:
    second, first = stage_2(make, f"method.prior={prior}")
    awake(second), awake(first)
    wide = random_batch(second.config, 48)
    batch: Any = centred(wide, 32)
    narrow: Any = {key: value for key, value in batch.items() if key != "context"}
    assert narrow["input"].shape[-1] == 32
    rng = torch.Generator
    with torch.no_grad():
        z = first.prior(first.seen(wide), wide)
        _, output = first.objective(batch, rng())
        assert output is not None
        assert torch.equal(output, first.network(first.seen(narrow), z))
        assert not torch.equal(output, first.network(first.seen(narrow), first.prior(first.seen(narrow), narrow)))
        terms, judged = second.objective(batch, rng())
        ours, _ = second.objective(wide, rng())
        assert terms["loss_prior"] == ours["loss_prior"] != second.objective(narrow, rng())[0]["loss_prior"]
        if prior == "none":
            assert judged is not None
            assert torch.equal(judged, second.network(second.seen(narrow), second.cpen_s2(second.seen(wide))))


@pytest.mark.parametrize("number", [1, 2])
def test_a_small_model_overfits_one_batch(make: Make, number: int) -> None:
    second, first = stage_2(make)
    method: Method = with_l1(first) if number == 1 else second
    batch = random_batch(method.config, size=16)
    # Smooth targets: noise cannot be predicted from its neighbours, only remembered.
    batch["target"] = torch.nn.functional.interpolate(batch["target"][..., :2, :2], size=16, mode="bilinear")
    batch["input"] = batch["target"] * (1 - batch["mask"])
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        total = method.training_step(batch, 0)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(total.item())
    assert min(losses[-10:]) < 0.4 * losses[0]


def test_the_first_steps_train_the_prior_alone_if_asked(make: Make) -> None:
    method, _ = stage_2(make, "method.prior_only=0.5")
    backward(method, random_batch(method.config), 2)
    assert without_gradient(method.cpen_s2) == []
    assert all(p.grad is None for p in method.network.parameters())


def test_noise_at_inference_depends_on_seed_and_name_alone() -> None:
    cpu = torch.device("cpu")
    first, second = noise_for(["a", "b"], 0, cpu)((8,)), noise_for(["b", "c"], 0, cpu)((8,))
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, noise_for(["a", "b"], 1, cpu)((8,)))
    assert not torch.equal(first, noise_for(["a", "b"], 0, cpu)((8,), "step 3"))
    many = noise_for([str(i) for i in range(500)], 0, cpu)((8, 8))
    assert many.shape == (500, 8, 8)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_noise_in_training_is_a_function_of_seed_step_and_rank() -> None:
    def draw(*key: int) -> Tensor:
        return torch.randn(8, generator=step_generator(*key))

    assert torch.equal(draw(0, 5, 0), draw(0, 5, 0))
    others = [(1, 5, 0), (0, 6, 0), (0, 5, 1)]
    assert all(not torch.equal(draw(0, 5, 0), draw(*key)) for key in others)


def test_batches_of_one_step_have_their_own_noise(make: Make, monkeypatch: Any) -> None:
    method, _ = stage_2(make)
    method.micro_batches = 2
    starts: list[Tensor] = []
    estimate = method.estimate

    def watched(image: Tensor, z_T: Tensor, noise: Any) -> Tensor:
        starts.append(z_T)
        return estimate(image, z_T, noise)

    monkeypatch.setattr(method, "estimate", watched)
    for batch_idx in range(4):
        method.training_step(random_batch(method.config), batch_idx)
    assert not torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])  # no step was made in between
    assert torch.equal(starts[1], starts[3])


def test_known_pixels_are_kept_bit_for_bit(make: Make) -> None:
    config = make("s1", "task=inpainting")
    batch = random_batch(config)
    output = image.final(torch.full_like(batch["target"], 0.123), batch)
    known = batch["mask"].expand_as(output) == 0
    assert torch.equal(output[known], batch["target"][known])
    assert (output[~known] == 0.123).all()


def test_exchanging_the_prior_matters_only_where_it_is_used(make: Make) -> None:
    torch.manual_seed(0)
    method = DiffI2IS1(make("s1")).eval()
    batch, other = random_batch(method.config), random_batch(method.config)
    other["target"] = 1 - other["target"]
    batch["other"] = other
    with torch.no_grad():
        outputs = method.validation_step(batch)
        assert not torch.equal(outputs["output"], outputs["prior_dependence"])
        for name, parameter in method.network.named_parameters():
            if "W_l" in name:
                parameter.zero_()
        outputs = method.validation_step(batch)
    assert torch.equal(outputs["output"], outputs["prior_dependence"])


def test_the_prior_of_stage_2_does_not_see_the_ground_truth(make: Make) -> None:
    method, _ = stage_2(make)
    batch = random_batch(method.config)
    with torch.no_grad():
        z = method.prior(method.seen(batch), method.noise(batch))
        blind = batch | {"target": torch.zeros_like(batch["target"])}
        assert torch.equal(z, method.prior(method.seen(blind), method.noise(blind)))


def test_no_weight_starts_with_a_gradient_that_adam_cannot_see(make: Make) -> None:
    """Adam divides by the gradient's size plus 1e-8: far below that a weight does not move."""
    torch.manual_seed(0)
    method = DiffI2IS1(make("s1", "task=inpainting", "model=tiny_deep"))
    batch = random_batch(method.config, images=4)
    weights = {name: weight for name, weight in method.named_parameters() if weight.ndim > 1}
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    for _ in range(2):  # in the first step, what lies before the blocks' zeros has none
        error = method.predict(batch, method.noise(batch)).sub(batch["target"]).square().mean()
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad.clone() for weight in weights.values() if weight.grad is not None]
        optimizer.step()
    sizes = {name: float(gradient.abs().mean()) for name, gradient in zip(weights, gradients, strict=True)}
    assert min(sizes.values()) > 5e-9, min(sizes, key=sizes.__getitem__)


def test_z_differs_between_images_from_the_start(make: Make) -> None:
    torch.manual_seed(0)
    method = DiffI2IS1(make("s1", "task=inpainting"))
    batch = random_batch(method.config, images=6)
    batch["target"] = batch["target"] * torch.linspace(0.2, 1, 6)[:, None, None, None]
    with torch.no_grad():
        z = method.prior(method.seen(batch), batch)
    assert z.std(0).mean() > 0.1 * z.abs().mean()


@pytest.mark.parametrize(
    ("schedule", "half", "end"), [("constant", 1.0, 1.0), ("poly", 0.55, 0.1), ("cosine", 0.55, 0.1)]
)
def test_the_rate_rises_then_follows_its_schedule(schedule: str, half: float, end: float) -> None:
    budget = train_config(steps=110, schedule=schedule, warmup=10 / 110 + 1e-9, lr_end=0.1)
    rates = [rate_factor(step, budget) for step in range(111)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == 1
    assert rates[60] == pytest.approx(half)
    assert rates[110] == pytest.approx(end)


def test_poly_falls_in_a_straight_line_to_nothing() -> None:
    budget = train_config(steps=200, schedule="poly", warmup=0.0, lr_end=0.0)
    assert [rate_factor(step, budget) for step in (0, 1, 50, 100, 199, 200)] == pytest.approx(
        [1, 0.995, 0.75, 0.5, 0.005, 0]
    )


def test_cosine_from_2e_4_ends_at_1e_6() -> None:
    budget = train_config(steps=1000, lr=2e-4, schedule="cosine", warmup=0.0, lr_end=0.005)
    rates = [2e-4 * rate_factor(step, budget) for step in range(1001)]
    assert rates[0] == 2e-4
    assert rates[500] == pytest.approx((2e-4 + 1e-6) / 2)
    assert rates[1000] == pytest.approx(1e-6)
    assert all(before > after for before, after in pairwise(rates))


def test_a_warm_up_of_three_tenths_peaks_there() -> None:
    budget = train_config(steps=100, schedule="cosine", warmup=0.3, lr_end=0.01)
    rates = [rate_factor(step, budget) for step in range(101)]
    assert max(rates) == rates[30] == 1
    assert rates[0] == pytest.approx(1 / 31)
    assert all(after - before == pytest.approx(1 / 31) for before, after in pairwise(rates[:31]))
    assert rates[65] == pytest.approx(0.505)
    assert rates[100] == pytest.approx(0.01)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_labels_and_depth_train_every_weight(make: Make, task: str) -> None:
    torch.manual_seed(0)
    config = make("dense", f"task={task}")
    task_loss = instantiate(config.task.losses[config.train.loss])
    method = DiffI2IS1(config)
    method.learn_from(task_loss)
    batch = random_batch(config, size=256)  # attention over a single position teaches nothing
    backward(method, batch, 1)
    assert without_gradient(method) == []
    second = DiffI2IS2(make("s2", f"task={task}", "method=diffi2i_s2"), method)
    second.learn_from(task_loss)
    backward(second, batch, 2)
    assert without_gradient(second) == []
    assert [name for name, p in second.named_parameters() if name.startswith("cpen_s1.") and p.grad is not None] == []


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@torch.no_grad()
def test_averaging_over_flips_and_sizes_is_the_mean_of_the_views(make: Make, task: str) -> None:
    torch.manual_seed(0)
    config = make("dense", f"task={task}")
    method = DiffI2IS1(config).eval()
    batch = random_batch(config, size=48)
    assert torch.equal(method.validation_step(batch)["output"], method.predict(batch, method.noise(batch)))

    def seen(image: Tensor, target: Tensor) -> Tensor:
        view = batch | {"input": image, "target": target}
        return method.predict(view, method.noise(view))

    def as_mean(output: Tensor) -> Tensor:
        return output.softmax(1) if config.task.kind == "labels" else output

    image, target = batch["input"], batch["target"]
    half = torch.nn.functional.interpolate(image, 24, mode="bilinear", antialias=True, align_corners=False)
    views = [
        as_mean(torch.nn.functional.interpolate(output, 48, mode="bilinear", align_corners=False))
        for output in (
            seen(image, target),
            seen(image.flip(-1), target.flip(-1)).flip(-1),
            seen(half, target),
            seen(half.flip(-1), target.flip(-1)).flip(-1),
        )
    ]
    config.task.protocol.flip, config.task.protocol.sizes = True, [1.0, 0.5]
    output = method.validation_step(batch)["output"]
    expected = torch.stack(views).mean(0)
    torch.testing.assert_close(output.exp() if config.task.kind == "labels" else output, expected, rtol=1e-4, atol=1e-5)
    # An image and its mirror image are scored alike.
    mirrored = method.averaged(batch | {"input": image.flip(-1), "target": target.flip(-1)})
    torch.testing.assert_close(mirrored.flip(-1), output, rtol=1e-4, atol=1e-5)
