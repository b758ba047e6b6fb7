"""Checkpoints of the authors' DiffIR, of all its folders, as runs of `method=diffir_s1` and `diffir_s2`.

A file is BasicSR's ({params, params_ema}), Lightning's (`state_dict` with prefixes), or the tensors themselves. Stage 2
has the networks `G` (DIRformer), `condition` (CPEN_S2) and `denoise`, the latter two once more inside `diffusion` with
the constants of its schedule; stage 1 has `G` and `E` (CPEN_S1).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.build import new_method
from diffi2i.methods.imports.reading import check_finite, read_tensors
from diffi2i.methods.method import Method

# Our names and theirs.
NAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"network\.embed\.weight", "G.patch_embed.proj.weight"),
    (r"network\.(encoder|decoder)\.(\d)\.(.+)", lambda m: f"G.{m[1]}_level{level(m[1], int(m[2]))}.{block(m[3])}"),
    (r"network\.bottom\.(.+)", lambda m: f"G.latent.{block(m[1])}"),
    (r"network\.refine\.(.+)", lambda m: f"G.refinement.{block(m[1])}"),
    (r"network\.down\.(\d)\.0\.weight", lambda m: f"G.down{int(m[1]) + 1}_{int(m[1]) + 2}.body.0.weight"),
    (r"network\.up\.(\d)\.0\.weight", lambda m: f"G.up{4 - int(m[1])}_{3 - int(m[1])}.body.0.weight"),
    (r"network\.join\.(\d)\.weight", lambda m: f"G.reduce_chan_level{3 - int(m[1])}.weight"),
    (r"network\.tail\.0\.weight", "G.output.weight"),
    (r"cpen_s1\.features\.(.+)", r"E.E.\1"),
    (r"cpen_s1\.head\.(.+)", r"E.mlp.\1"),
    (r"cpen_s2\.features\.(.+)", r"condition.E.\1"),
    (r"cpen_s2\.head\.(.+)", r"condition.mlp.\1"),
]
IN_BLOCK = {
    "norm1.": "norm1.body.",
    "norm2.": "norm2.body.",
    "modulation1.linear.": "attn.kernel.0.",
    "modulation2.linear.": "ffn.kernel.0.",
    "attention.temperature": "attn.temperature",
    "attention.qkv.0.": "attn.qkv.",
    "attention.qkv.1.": "attn.qkv_dwconv.",
    "attention.project.": "attn.project_out.",
    "feed_forward.widen.0.": "ffn.project_in.",
    "feed_forward.widen.1.": "ffn.dwconv.",
    "feed_forward.project.": "ffn.project_out.",
}
# What their diffusion keeps of its schedule; all follow from the betas.
BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
TWINS = {"diffusion.condition.": "condition.", "diffusion.model.": "denoise."}
TEACHER = "generatorS1.E."
"""CPEN_S1 in Lightning's checkpoints of stage 2."""


def level(part: str, index: int) -> int:
    """Theirs count from the finest, and so does our encoder; our decoder counts from the coarsest."""
    return index + 1 if part == "encoder" else 3 - index


def block(name: str) -> str:
    """`0.attention.qkv.0.weight` -> `0.attn.qkv.weight`."""
    number, _, inner = name.partition(".")
    ours = next(key for key in IN_BLOCK if inner.startswith(key))
    return f"{number}.{IN_BLOCK[ours]}{inner[len(ours) :]}"


def theirs(name: str, enlarges: bool) -> str:
    """The authors' name for one of our weights."""
    if enlarges and (found := re.fullmatch(r"network\.tail\.(\d)\.(.+)", name)):
        number, rest = int(found[1]), found[2]
        return f"G.tail.1.{rest}" if number == 4 else f"G.tail.0.{number}.{rest}"
    if found := re.fullmatch(r"denoiser\.layers\.(\d+)\.(.+)", name):
        number = int(found[1])  # a linear layer and a LeakyReLU each; theirs join them
        return (
            f"denoise.resmlp.0.{found[2]}" if number == 0 else f"denoise.resmlp.{number // 2 + 1}.resmlp.0.{found[2]}"
        )
    for pattern, replacement in NAMES:
        if found := re.fullmatch(pattern, name):
            return replacement(found) if callable(replacement) else found.expand(replacement)
    raise KeyError(name)


def convert(file: Path, overrides: Sequence[str]) -> Method:
    """The method, at the paper's sizes of its task unless `model=` or `budget=` name others, with the file's weights.

    Raises:
        UserError: the file cannot be read, lacks a weight, has one too many or of another shape, duplicates that
            differ, other betas, or values that are no numbers.
    """
    state = networks_in(file, read_tensors(file))
    check_finite(file, state)
    second = any(name.startswith("denoise.") for name in state)
    if not second and not any(name.startswith("E.") for name in state):
        raise UserError(f"{file} is no DiffIR: it has neither denoise.* (stage 2) nor E.* (stage 1)")
    teacher = {f"E.{name[len(TEACHER) :]}": state.pop(name) for name in list(state) if name.startswith(TEACHER)}
    settings = [f"method=diffir_s{1 + second}", *([f"method.teacher={str(bool(teacher)).lower()}"] if second else [])]
    budget = [] if any(text.startswith("budget=") for text in overrides) else ["budget=paper"]
    config = load(Config, "train", [*settings, *budget, *overrides])
    method = new_method(config)
    state |= teacher
    if second:
        check_duplicates(file, state)
        check_betas(file, state, method.schedule.betas)  # type: ignore[union-attr, arg-type]
    ours = method.state_dict()
    enlarges = "network.tail.2.weight" in ours
    names = {name: theirs(name, enlarges) for name in ours}
    known = {*names.values(), *(f"diffusion.{name}" for name in BUFFERS)}
    known |= {twin + name[len(own) :] for twin, own in TWINS.items() for name in names.values() if name.startswith(own)}
    model = f"model={config.model.name} of task={config.task.name}"
    if missing := sorted(set(names.values()) - set(state)):
        raise UserError(f"{file} lacks {missing[0]}, which {model} has: name its task and its model=")
    if extra := sorted(set(state) - known):
        raise UserError(f"{file} has {extra[0]}, which {model} lacks: name its task and its model=")
    folded = {name: state[other] for name, other in names.items()}
    for name, value in folded.items():
        if value.shape != ours[name].shape:
            raise UserError(
                f"{file}: {names[name]} has the shape {list(value.shape)}, {model} at "
                f"task.scale={config.task.scale} wants {list(ours[name].shape)}: name its "
                "task, its task.scale and its model="
            )
    method.load_state_dict(fold(folded, config))
    return method


def networks_in(file: Path, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights by the authors' names, whatever the file has around them."""
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(found.get(key), Mapping):
            found = found[key]
            break
    state = {str(name).removeprefix("module."): value for name, value in found.items()}
    if any(name.startswith("generator.") for name in state):  # Lightning: networks, discriminator, evaluators, losses
        state = {
            name.removeprefix("generator."): value
            for name, value in state.items()
            if name.startswith(("generator.", TEACHER))
        }
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no dictionary of tensors, nor one under params_ema, params or state_dict")
    return state


def check_duplicates(file: Path, state: Mapping[str, Tensor]) -> None:
    """The weights that stand twice are the same. Raises `UserError`: they are not, or one stands once."""
    for twin, own in TWINS.items():
        for name, value in state.items():
            if name.startswith(own):
                other = state.get(twin + name[len(own) :])
                if other is None or not torch.equal(other, value):
                    raise UserError(
                        f"{file}: {twin}{name[len(own) :]} {'is missing' if other is None else 'differs'}, "
                        f"which should repeat {name}"
                    )


def check_betas(file: Path, state: Mapping[str, Tensor], ours: Sequence[float]) -> None:
    """The diffusion was trained under the betas that it will be used under. Raises `UserError`: it was not."""
    if missing := [name for name in BUFFERS if f"diffusion.{name}" not in state]:
        raise UserError(f"{file} lacks diffusion.{missing[0]}")
    found = state["diffusion.betas"].double()
    expected = torch.tensor(ours, dtype=torch.float64)
    if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-6):
        written = ", ".join(f"{beta:.4f}" for beta in found.flatten().tolist())
        raise UserError(
            f"{file} was trained with the betas {written}, not {', '.join(f'{beta:.4f}' for beta in ours)}: write its "
            "method.diffusion.schedule=, steps=, beta_1= and beta_T="
        )


def fold(state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Their weights for our layout, in which they compute the same.

    Our CPEN_S1 joins the ground truth before the input. Our denoiser's input is [z, t / T, D] with t = 1..T, theirs
    [D, t / (10 T), z] with t = 0..T-1, so the weights of the time are a tenth, and the bias makes up for the shift.
    """
    if (first := state.get("cpen_s1.features.0.weight")) is not None:
        truth = 3 * 16  # channels of the unshuffled ground truth
        state["cpen_s1.features.0.weight"] = torch.cat([first[:, -truth:], first[:, :-truth]], dim=1)
    if (weight := state.get("denoiser.layers.0.weight")) is not None:
        dim, steps = config.model.prior_dim, config.method["diffusion"]["steps"]
        condition, time, z = torch.split(weight, [dim, 1, dim], dim=1)
        state["denoiser.layers.0.weight"] = torch.cat([z, time / 10, condition], dim=1)
        state["denoiser.layers.0.bias"] = state["denoiser.layers.0.bias"] - time[:, 0] / (10 * steps)
    return state
