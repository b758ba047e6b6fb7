"""The methods' networks, sized by a configuration."""

from collections.abc import Sequence
from dataclasses import asdict

from torch import nn

from diffi2i.config.build import build
from diffi2i.config.schema import Config, ModelConfig, TaskConfig
from diffi2i.errors import UserError
from diffi2i.models.cpen import CPEN
from diffi2i.models.depth import DEPTH
from diffi2i.models.di2iformer import DI2Iformer


def build_cpen(task: TaskConfig, model: ModelConfig, gt: bool) -> CPEN:
    """CPEN_S1 with `gt`, else CPEN_S2. Raises `UserError`: the model has none."""
    channels, seen, in_channels = model.prior_dim // 4, 0, task.in_channels
    assert model.cpen is not None
    if gt:
        seen = build(task.gt, "task.gt") if task.gt else 3
        in_channels = task.in_channels if model.cpen.s1_sees_input else 0
    return CPEN(in_channels, seen, channels, model.cpen.blocks, task.scale, model.leaky_ends, model.cpen.normalise)


def build_network(model: ModelConfig, prior: bool) -> nn.Module:
    """The network from the input to the prediction, from its Hydra node: `forward(image, z)`, or `forward(image)`.

    Raises:
        UserError: sizes that its class refuses, or weights that cannot be had.
    """
    network: nn.Module = build(model.network, "model.network", **({"prior_dim": model.prior_dim} if prior else {}))
    return network


def build_denoiser(model: ModelConfig, in_channels: int, out_channels: int) -> nn.Module:
    """`model.network` as the denoiser of images or codes: `forward(x, time)`. Raises `UserError` as `build_network`."""
    denoiser: nn.Module = build(model.network, "model.network", in_channels=in_channels, out_channels=out_channels)
    return denoiser


def use_tlc(network: nn.Module, config: Config) -> None:
    """Lets a DI2Iformer average over windows, in pixels of the input, of the size that TLC's authors choose.

    Half as large again as crops of one size (NAFNet, MPRNet: 384 for 256), and the size of the last where they grow
    (Restormer: 384 for 384).

    Raises:
        UserError: another network.
    """
    if not isinstance(network, DI2Iformer):
        raise UserError(f"method.tlc belongs to the DI2Iformer, and model={config.model.name} has another network")
    phases = config.train.phases
    network.use_tlc((phases[-1].patch if phases else config.train.patch * 3 // 2) // config.task.scale)


def check_same_model(config: Config, init: Config, apart: Sequence[str] = ()) -> None:
    """The networks are those of the run that this one starts from, or shallower, but for the keys `apart`.

    Raises:
        UserError: one line that says what to write.
    """
    ours, theirs = asdict(config.model), asdict(init.model)
    depth, before = (each["network"].get(DEPTH) for each in (ours, theirs))
    if depth is not None and (before is None or depth < before):
        theirs["network"][DEPTH] = depth
    for key in ours:
        if key == "name" or key in apart or ours[key] == theirs[key]:
            continue
        our, their, write = ours[key], theirs[key], "write "
        if isinstance(our, dict):
            inner = next(name for name in their | our if our.get(name) != their.get(name))
            # Hydra knows no such key here, or there.
            write = "write +" if inner not in our else write if inner in their else "leave out +"
            key, our, their = f"{key}.{inner}", our.get(inner), their.get(inner)
        write += f"model.{key}" + (f"={their}" if write.startswith("write") else "")
        if init.model.name != config.model.name:
            write = f"write model={init.model.name}"
        raise UserError(f"method.init={config.init} has model.{key}={their}, this run {our}: {write}")
