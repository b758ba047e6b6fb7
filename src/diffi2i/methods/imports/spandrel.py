"""Checkpoints of other authors as spandrel recognises them by their keys, as runs of `methods.spandrel`.

spandrel gets the tensors that `reading` has read, and never opens the file. It finds the sizes of the network in them.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffi2i.config.build import refuse_missing_peer
from diffi2i.config.compose import load
from diffi2i.config.schema import Config, ModelConfig
from diffi2i.data.degrade import has_holes
from diffi2i.errors import UserError
from diffi2i.kinds.spec import KINDS
from diffi2i.methods.build import new_method
from diffi2i.methods.imports.reading import check_finite, read_tensors
from diffi2i.methods.method import Method

# Where spandrel has their classes. Real-ESRGAN and BSRGAN are ESRGAN's network with weights of their own.
NETWORKS = {
    "ESRGAN": "spandrel.architectures.ESRGAN.ESRGAN",
    "LaMa": "spandrel.architectures.LaMa.LaMa",
    "NAFNet": "spandrel.architectures.NAFNet.NAFNet",
    "Restormer": "spandrel_extra_arches.architectures.Restormer.Restormer",
    "MPRNet": "spandrel_extra_arches.architectures.MPRNet.MPRNet",
}
LAMA = "generator.model."
"""LaMa's trainer keeps its generator beside its discriminator and its losses."""


def convert(file: Path, overrides: Sequence[str]) -> Method:
    """The network that the file's weights belong to, with them.

    Raises:
        UserError: a file that cannot be read or that no network of `NETWORKS` has written, one of another task, or
            spandrel is not installed.
    """
    if file.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{file} is no checkpoint for import spandrel: name a .pth or .safetensors file")
    for text in overrides:
        if text.startswith(("model=", "model.", "method=", "method.")):
            raise UserError(f"{text}: the network is that of the file, leave it out")
    unwrap, registry = library()
    state = weights_in(file, unwrap(read_tensors(file)))
    check_finite(file, state)
    found = recognised(file, state, registry)
    budget = [] if any(text.startswith("budget=") for text in overrides) else ["budget=paper"]
    config = load(Config, "train", ["method=regressor", *budget, *overrides])
    check_fits(file, found, config)
    architecture, asked = str(found.architecture.id), found.size_requirements
    sizes = {"_target_": NETWORKS[architecture], "_convert_": "all", **found.model.hyperparameters}
    options = {"file": file.stem, "minimum": max(1, asked.minimum), "multiple": asked.multiple_of}
    method = new_method(
        replace(
            config,
            model=ModelConfig(name="-".join([architecture, *found.tags]), network=sizes),
            method={
                "_target_": "diffi2i.methods.spandrel.Spandrel",
                "name": "spandrel",
                "init": None,
                "role": config.method["role"],
                **options,
            },
        )
    )
    method.network.load_state_dict(found.model.state_dict())  # type: ignore[union-attr]
    return method


def library() -> tuple[Any, Any]:
    """spandrel's function that unwraps a file's tensors, and its architectures. Raises `UserError`: not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, which some of its modules use
            from spandrel import MAIN_REGISTRY, canonicalize_state_dict
            from spandrel_extra_arches import EXTRA_REGISTRY
    except ImportError as error:
        refuse_missing_peer("import spandrel", error)
        raise
    registry = MAIN_REGISTRY.copy()
    registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    return canonicalize_state_dict, registry


def weights_in(file: Path, unwrapped: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors by name. Raises `UserError`: there is something else."""
    state = dict(unwrapped)
    if any(str(name).startswith(LAMA) for name in state):
        state = {name: value for name, value in state.items() if str(name).startswith(LAMA)}
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise UserError(f"{file} holds no dictionary of tensors, nor one under params_ema, params or state_dict")
    return state


def recognised(file: Path, state: dict[str, Tensor], registry: Any) -> Any:
    """spandrel's descriptor of the network, with all weights of the file in it.

    Raises:
        UserError: spandrel knows no such network, or one that is none of `NETWORKS`, or its weights do not fit.
    """
    support = next((each for each in registry.architectures("detection") if each.detect(state)), None)
    known = ", ".join(NETWORKS)
    if support is None:
        raise UserError(f"{file} is no network that spandrel recognises: name a file of {known}")
    architecture = support.architecture
    if architecture.id not in NETWORKS:
        raise UserError(f"{file} is of {architecture.id}: name a file of {known}")
    try:
        found = architecture.load(state)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} looks like {architecture.id}, but does not fit it: {why[:200]}") from error
    ours = found.model.state_dict()
    taken, held = (sum(value.numel() for value in each.values()) for each in (ours, state))
    if taken != held:  # spandrel leaves out what it does not know
        raise UserError(f"{file} has {held} weights, of which {architecture.id} takes {taken}: it is another network")
    for name in ours.keys() & state.keys():  # MPRNet has one activation under many names
        if not torch.equal(ours[name], state[name].to(ours[name].dtype)):
            raise UserError(f"{file}: {name} should repeat what stands under other names, and differs")
    return found


def check_fits(file: Path, found: Any, config: Config) -> None:
    """The network does what the task asks for. Raises `UserError`: it does not."""
    name, task = f"{file}, of {found.architecture.id},", config.task
    if (found.input_channels, found.output_channels) != (3, 3):
        channels = f"{found.input_channels} channels to {found.output_channels}"
        raise UserError(f"{name} maps {channels}, the tasks are in colour: name a file with 3 of each")
    if KINDS[task.kind].dense:
        raise UserError(f"{name} predicts images, task={task.name} {task.kind}: write the task it was trained for")
    fills = found.purpose == "Inpainting"
    if fills != has_holes(task):
        raise UserError(
            f"{name} {'fills holes' if fills else 'sees no mask'}, and task={task.name} has "
            f"{'holes: write the task it was trained for' if not fills else 'none: write task=inpainting'}"
        )
    if found.scale != task.scale:
        other = "task=deblur, or task.scale=1" if found.scale == 1 else f"task.scale={found.scale}"
        raise UserError(f"{name} enlarges x{found.scale}, task={task.name} x{task.scale}: write {other}")
