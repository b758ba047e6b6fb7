"""What the paper-scale settings promise: rates, budgets, groups of weights and the chain that ends with a GAN."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from diffi2i.commands import train
from diffi2i.config.commands import ScoreConfig
from diffi2i.config.compose import load
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config, TrainConfig
from diffi2i.errors import UserError
from diffi2i.methods.build import check
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.optimisation import optimisation, parameter_groups, rate_factor
from diffi2i.run.directory import load_method
from tests.adversaries import gan
from tests.conftest import SMALL_DENSE, Make
from tests.refusals import refusal
from tests.settings import train_config


def settings_of(task: str, budget: str, role: str, *more: str) -> Config:
    """Stage 1 in the role of a fresh run, stage 2 in the others."""
    method = "diffi2i_s1" if role == "fresh" else "diffi2i_s2"
    return load(Config, "train", [f"task={task}", f"budget={budget}", f"method={method}", f"method.role={role}", *more])


def steps_of_change(settings: TrainConfig) -> dict[int, float]:
    """The optimiser steps at which the rate changes, and the rate from there on."""
    every = settings.steps // 400
    rates = [(step, settings.lr * rate_factor(step, settings)) for step in range(0, settings.steps, every)]
    return {after[0]: after[1] for before, after in pairwise(rates) if before[1] != after[1]}


@pytest.mark.parametrize(("steps", "milestones"), [(40, [0.5, 0.7]), (1000, [0.1, 0.7, 0.9]), (7, [0.5])])
def test_multistep_is_torchs(steps: int, milestones: list[float]) -> None:
    settings = train_config(steps=steps, lr=2e-4, schedule="multistep", warmup=0.0, milestones=milestones, gamma=0.3)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=2e-4)
    reference = MultiStepLR(optimizer, [round(m * steps) for m in milestones], gamma=0.3)
    for step in range(steps):
        assert settings.lr * rate_factor(step, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        reference.step()
    assert rate_factor(steps - 1, settings) == pytest.approx(0.3 ** len(milestones))


def test_multistep_may_follow_a_warm_up() -> None:
    settings = train_config(steps=100, schedule="multistep", warmup=0.1, milestones=[0.5])
    rates = [rate_factor(step, settings) for step in (0, 9, 10, 49, 50, 99)]
    assert rates == pytest.approx([1 / 11, 10 / 11, 1, 1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("task", "role", "steps", "loss", "changes"),
    [
        ("sisr", "fresh", 1_000_000, "l1", {500_000: 1e-4, 700_000: 5e-5}),
        ("sisr", "continued", 1_000_000, "l1", {500_000: 1e-4, 700_000: 5e-5}),
        ("sisr", "adversarial", 400_000, "real_esrgan", {200_000: 1e-4}),
        ("realsr", "fresh", 1_000_000, "l1", {500_000: 1e-4, 700_000: 5e-5}),
        ("realsr", "continued", 1_000_000, "l1", {700_000: 1e-4}),
        ("realsr", "adversarial", 400_000, "real_esrgan", {300_000: 1e-4}),
    ],
)
def test_super_resolution_at_the_papers_budget(
    task: str, role: str, steps: int, loss: str, changes: dict[int, float]
) -> None:
    settings = settings_of(task, "paper", role).train
    assert (settings.steps, settings.lr, settings.loss) == (steps, 2e-4, loss)
    assert rate_factor(0, settings) == 1
    assert steps_of_change(settings) == pytest.approx(changes)


@pytest.mark.parametrize(
    ("task", "role", "fraction"),
    [
        ("realsr", "continued", 0.1),
        ("deblur", "continued", 0.25),
        ("sisr", "continued", 0.0),
        ("inpainting", "continued", 0.0),
        ("realsr", "adversarial", 0.0),
        ("sisr", "adversarial", 0.0),
    ],
)
def test_task_and_budget_alone_say_how_long_the_prior_trains_alone(task: str, role: str, fraction: float) -> None:
    assert settings_of(task, "paper", role).method["prior_only"] == fraction
    assert settings_of(task, "smoke", "continued").method["prior_only"] == 0
    assert settings_of(task, "demo", "continued").method["prior_only"] == 0
    assert settings_of(task, "paper", role, "method.prior_only=0.5", "train.loss=l1").method["prior_only"] == 0.5


def test_the_weight_of_the_adversarial_loss() -> None:
    """Real SR has Real-ESRGAN's losses, says the paper; for bicubic SR it names no weight, the authors' scripts do."""
    for task, weight in (("realsr", 0.1), ("sisr", 1.0)):
        node = settings_of(task, "paper", "adversarial").task.losses["real_esrgan"]
        assert (node["weights"], node["adversary"]["weight"]) == ({"l1": 1, "perceptual": 1}, weight)
        assert node["adversary"]["lr_factor"] * 2e-4 == 1e-4


def test_below_the_papers_budget_the_schedules_are_the_tasks_own() -> None:
    for budget in ("smoke", "demo", "reduced"):
        for role in ("fresh", "continued"):
            for task in ("sisr", "realsr", "deblur", "segmentation", "depth", "inpainting"):
                loaded = settings_of(task, budget, role)
                settings = loaded.train
                assert settings.schedule == loaded.task.schedule
                assert (settings.warmup, settings.lr_end) == (loaded.task.warmup, loaded.task.lr_end)
                assert (settings.clip, settings.head_lr, settings.decay_norms) == (1.0, 1.0, True)
    assert settings_of("sisr", "demo", "continued", "task.schedule=constant").train.schedule == "constant"
    assert load(Config, "train", ["task=sisr", "budget=paper"]).train.schedule == "multistep"
    for task in ("sisr", "segmentation", "depth"):  # scoring has no budget to look anything up by
        more = ["task.classes=3"] if task == "segmentation" else []
        assert load(ScoreConfig, "score", [f"task={task}", "pred=a", "target=b", *more]).task.name == task


def test_dense_tasks_at_the_papers_budget() -> None:
    segmentation = settings_of("segmentation", "paper", "continued")
    settings, scenes = segmentation.train, segmentation.task.scenes
    assert (settings.lr, settings.schedule, settings.steps) == (2.5e-4, "poly", 160_000)
    assert (settings.head_lr, settings.decay_norms) == (10.0, False)
    assert settings.warmup * settings.steps == 1500
    assert (scenes.short_side, scenes.long_side, scenes.zoom) == (512, 2048, [0.5, 2.0])
    assert segmentation.model.network["encoder"]["drop_path"] == 0.1
    small = settings_of("segmentation", "paper", "continued", "model=segment_s")
    assert small.model.network["encoder"]["drop_path"] == 0.1

    depth = settings_of("depth", "paper", "continued")
    settings = depth.train
    assert (settings.lr, settings.schedule, settings.warmup, settings.steps) == (1e-4, "cosine", 0.3, 38_400)
    assert (settings.clip, settings.head_lr, settings.decay_norms) == (35.0, 1.0, False)
    assert rate_factor(settings.steps, settings) == pytest.approx(1 / 2500)
    assert depth.task.scenes.rotate == 2.5
    assert (settings.patch, round(settings.patch * depth.task.scenes.aspect)) == (416, 544)
    assert depth.model.network["encoder"]["drop_path"] == 0.3
    for task in ("segmentation", "depth"):
        demo = settings_of(task, "demo", "continued").task.scenes
        assert (demo.short_side, demo.long_side, demo.rotate, demo.input_scale) == (None, None, 0.0, 1.0)


def dense(task: str, *more: str) -> DiffI2IS2:
    return DiffI2IS2(settings_of(task, "smoke", "continued", *SMALL_DENSE[task], *more))


def held(group: dict[str, Any]) -> set[int]:
    return {id(parameter) for parameter in group["params"]}


@pytest.mark.parametrize("head_lr", [1.0, 10.0])
@pytest.mark.parametrize("decay_norms", ["true", "false"])
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_groups_hold_every_trainable_weight_once(task: str, decay_norms: str, head_lr: float) -> None:
    method = dense(task, f"train.head_lr={head_lr}", f"train.decay_norms={decay_norms}")
    configured: Any = method.configure_optimizers()
    groups = configured[0]["optimizer"].param_groups
    assert len(groups) == (2 if head_lr != 1 else 1) * (2 if decay_norms == "false" else 1)
    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(every) == len(set(every))
    assert set(every) == {id(p) for p in method.parameters() if p.requires_grad}
    if len(groups) == 1:  # in the modules' own order, as ever
        assert every == [id(p) for p in method.parameters() if p.requires_grad]


def test_the_head_learns_faster_and_norms_and_positions_do_not_decay() -> None:
    method = dense("segmentation", "train.head_lr=10", "train.decay_norms=false", "train.lr=1e-3")
    configured: Any = method.configure_optimizers()
    rate: dict[int, float] = {}
    decay: dict[int, float] = {}
    for group in configured[0]["optimizer"].param_groups:
        rate |= dict.fromkeys(held(group), group["initial_lr"])
        decay |= dict.fromkeys(held(group), group["weight_decay"])
    named = {name: id(parameter) for name, parameter in method.named_parameters() if parameter.requires_grad}
    network: Any = method.network
    in_head = {id(p) for part in (network.fusions, network.head) for p in part.parameters()}
    kinds = (nn.BatchNorm2d, nn.LayerNorm)
    norms = {id(p) for m in method.modules() if isinstance(m, kinds) for p in m.parameters()}
    positions = {key for name, key in named.items() if name.endswith(("position_q", "position_k"))}
    assert len(norms) > 80
    assert len(positions) == 8
    for name, key in named.items():
        assert rate[key] == pytest.approx(1e-2 if key in in_head else 1e-3), name
        assert decay[key] == (0.0 if key in norms | positions else 0.01), name
    assert decay[named["network.head.3.bias"]] == 0.01  # as in SeaFormer's settings

    # The schedule acts on each group's own rate.
    scheduler, optimizer = configured[0]["lr_scheduler"]["scheduler"], configured[0]["optimizer"]
    for step in range(4):
        factor = rate_factor(step, method.config.train)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(group["initial_lr"] * factor)
        optimizer.step()
        scheduler.step()


def test_swins_tables_of_positions_do_not_decay() -> None:
    import timm

    body = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True)
    settings = train_config(lr=1e-4, decay_norms=False)
    decaying, kept = parameter_groups(body, list(body.parameters()), settings)
    if "weight_decay" in decaying:
        decaying, kept = kept, decaying
    names = {id(p): name for name, p in body.named_parameters()}
    left_out = {names[key] for key in held(kept)}
    assert {name for name in names.values() if "relative_position_bias_table" in name} <= left_out
    assert {name for name in names.values() if ".norm" in name} <= left_out
    assert all("norm" in name or "relative_position_bias_table" in name for name in left_out)
    assert any(name.endswith("qkv.bias") for name in (names[key] for key in held(decaying)))


def test_every_group_is_stepped_and_clipped_together(make: Make) -> None:
    settings = ("task=segmentation", "train.head_lr=10", "train.decay_norms=false", "train.clip=35")
    run_dir = train.train(make("grouped", *settings))
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = last["optimizer_states"]
    assert len(optimizer["param_groups"]) == 4
    assert len(optimizer["state"]) == sum(len(group["params"]) for group in optimizer["param_groups"])
    assert all(entry["step"] == 4 for entry in optimizer["state"].values())
    slow, fast = sorted({group["initial_lr"] for group in optimizer["param_groups"]})
    assert fast == pytest.approx(10 * slow)


def test_a_list_of_weights_is_scheduled_as_before() -> None:
    config = settings_of("sisr", "smoke", "continued")
    built = optimisation([nn.Parameter(torch.zeros(2))], config, 0.5)
    assert built["optimizer"].param_groups[0]["lr"] == pytest.approx(0.5 * 1e-3 * rate_factor(0, config.train))


@pytest.mark.parametrize("budget", ["smoke", "reduced", "paper"])
@pytest.mark.parametrize("task", ["sisr", "realsr"])
def test_a_gan_budget_composes_from_task_budget_and_role(task: str, budget: str) -> None:
    loaded = settings_of(task, budget, "adversarial")
    assert "adversary" in loaded.task.losses[loaded.train.loss]
    assert (loaded.method["prior_only"], loaded.train.adversarial_from) == (0, 0)
    assert "adversary" not in loaded.task.losses[settings_of(task, "paper", "continued").train.loss]


@pytest.mark.parametrize("budget", ["demo", "paper"])
def test_where_the_recipe_has_no_gan_phase_its_role_is_refused(budget: str) -> None:
    with pytest.raises(UserError, match=r"method\.role=adversarial: task=deblur has none at budget="):
        settings_of("deblur", budget, "adversarial")


def test_the_chain_of_three_runs_ends_with_the_gan(make: Make, stage1: Path) -> None:
    second = train.train(make("s2", "method=diffi2i_s2", f"method.init={stage1}", "method.prior_only=0.5"))
    third_config = make("gan", *gan("sisr"), "method=diffi2i_s2", "method.role=adversarial", f"method.init={second}")
    assert (third_config.train.schedule, third_config.train.milestones) == ("multistep", [0.5])
    third = train.train(third_config)
    last = torch.load(third / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert all(entry["step"] == 4 for o in last["optimizer_states"] for entry in o["state"].values())
    ours, theirs = (o["param_groups"][0] for o in last["optimizer_states"])
    assert theirs["lr"] == pytest.approx(0.5 * ours["lr"])
    assert ours["lr"] == pytest.approx(0.5 * ours["initial_lr"])  # halved at the second of four steps
    started, went_on = load_method(second), load_method(third)
    frozen = [key for key in started.state_dict() if key.startswith("cpen_s1")]
    assert frozen
    assert all(torch.equal(started.state_dict()[key], went_on.state_dict()[key]) for key in frozen)
    assert read_run_config(third).method["role"] == "adversarial"


def test_who_goes_on_denoises_as_before(make: Make, stage1: Path) -> None:
    joint = ("method=diffi2i_s2", "method.diffusion.schedule=sqrt_linear")
    second = train.train(make("s2", *joint, f"method.init={stage1}"))
    assert make("on", *joint, f"method.init={second}").method["diffusion"]["schedule"] == "sqrt_linear"
    said = refusal(check, make("other", "method=diffi2i_s2", f"method.init={second}"))
    assert said.endswith("learnt to denoise with schedule=sqrt_linear: write method.diffusion.schedule=sqrt_linear")


def test_a_run_from_before_these_keys_has_the_defaults(make: Make, stage1: Path) -> None:
    """Its file names none of them: the schedule of the betas is linear, the rates are the task's."""
    file = stage1 / "config.yaml"
    saved: Any = OmegaConf.to_container(OmegaConf.load(file))
    removed = [saved["method"].pop("tlc"), saved["dataset"].pop("train_box"), saved["train"].pop("clip")]
    removed += [saved["train"].pop(key) for key in ("milestones", "gamma", "head_lr", "decay_norms")]
    removed += [saved["task"]["scenes"].pop(key) for key in ("short_side", "long_side", "rotate")]
    for budget in saved["task"]["budgets"].values():
        del budget["adversarial"]
        for key in ("clip", "head_lr", "decay_norms", "short_side", "long_side", "rotate"):
            del budget[key]
        for role in (budget["fresh"], budget["continued"]):
            for key in ("schedule", "warmup", "lr_end", "milestones", "prior_only"):
                del role[key]
    assert removed == [False, None, 1.0, [], 0.5, 1.0, True, None, None, 0.0]
    OmegaConf.save(OmegaConf.create(saved), file)
    loaded = read_run_config(stage1)
    today = make("s1")
    assert (loaded.train, loaded.model, loaded.dataset) == (today.train, today.model, today.dataset)
    assert DiffI2IS1(loaded).options == DiffI2IS1(today).options
    assert loaded.task.budgets["smoke"].fresh == today.task.budgets["smoke"].fresh


@pytest.mark.parametrize(
    ("overrides", "words", "mended"),
    [
        (["train.schedule=step"], "choose one of constant, cosine, poly, multistep", ["train.schedule=poly"]),
        (
            ["train.schedule=multistep"],
            "write train.milestones=[0.5,0.7]",
            ["train.schedule=multistep", "train.milestones=[0.5,0.7]"],
        ),
        (
            ["budget=paper", "train.schedule=cosine"],
            "write train.milestones=[] too",
            ["budget=paper", "train.schedule=cosine", "train.milestones=[]"],
        ),
        (["train.schedule=multistep", "train.milestones=[0.7,0.5]"], "must rise within [train.warmup=0.05, 1)", None),
        (["train.schedule=multistep", "train.milestones=[0.5,0.5]"], "must rise", None),
        (["train.schedule=multistep", "train.milestones=[500000]"], "as fractions of train.steps=800", None),
        (["train.schedule=multistep", "train.milestones=[0.5,1.0]"], "must rise", None),
        (["train.schedule=multistep", "train.milestones=[-0.5]"], "must rise", None),
        (["budget=paper", "train.gamma=0"], "train.gamma=0.0 must be above 0", None),
        (["budget=paper", "train.gamma=2"], "write 1 or less", ["budget=paper", "train.gamma=1"]),
        (["method=diffi2i_s2", "method.diffusion.schedule=warped"], "choose one of linear, sqrt_linear, cosine", None),
        (["train.head_lr=10"], "belongs to labels and depth: write train.head_lr=1", ["train.head_lr=1"]),
        (["task=segmentation", "train.head_lr=0"], "train.head_lr=0.0 must be above 0", None),
        (["train.clip=-1"], "train.clip=-1.0 must be above 0", ["train.clip=null"]),
        (["train.decay_norms=maybe"], "train.decay_norms", None),
        (["task=segmentation", "+model.network.encoder.drop_path=1"], "is a probability in [0, 1)", None),
        (
            ["task=depth", "model=depth_swin", "model.network.encoder.drop_path=-0.1"],
            "is a probability in [0, 1)",
            None,
        ),
        (["task=segmentation", "model=segment_s", "model.network.encoder.drop_path=x"], "is a probability", None),
        (
            ["task=segmentation", "budget=paper", "task.scenes.input_scale=0.5"],
            "write task.scenes.input_scale=1 or task.scenes.short_side=null task.scenes.long_side=null",
            [
                "task=segmentation",
                "budget=paper",
                "task.scenes.input_scale=0.5",
                "task.scenes.short_side=null",
                "task.scenes.long_side=null",
            ],
        ),
        (
            ["task=segmentation", "task.scenes.long_side=2048"],
            "write task.scenes.short_side=512 too",
            ["task=segmentation", "task.scenes.long_side=2048", "task.scenes.short_side=512"],
        ),
        (
            ["task=segmentation", "task.scenes.short_side=512", "task.scenes.long_side=100"],
            "write 2048, or null",
            ["task=segmentation", "task.scenes.short_side=512", "task.scenes.long_side=null"],
        ),
        (["task=segmentation", "task.scenes.short_side=0"], "task.scenes.short_side=0 must be above 0", None),
        (["task=depth", "task.scenes.rotate=90"], "write 2.5", ["task=depth", "task.scenes.rotate=2.5"]),
        (["dataset.train_box=[0,1,0,1]"], "belongs to labels and depth", ["dataset.train_box=null"]),
        (["task=depth", "dataset.train_box=[0,1]"], "[top,bottom,left,right]: [45,472,43,608]", None),
        (["task=depth", "dataset.train_box=[9,9,0,4]"], "[top,bottom,left,right]", None),
    ],
)
def test_what_cannot_be_is_refused_and_the_advice_works(
    overrides: list[str], words: str, mended: list[str] | None
) -> None:
    assert words in refusal(lambda: check(load(Config, "train", overrides)))
    if mended is not None:
        load(Config, "train", mended)


def test_stage_1_has_a_single_group_unless_asked(make: Make) -> None:
    method = DiffI2IS1(make("s1"))
    configured: Any = method.configure_optimizers()
    (group,) = configured[0]["optimizer"].param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in method.parameters()]
