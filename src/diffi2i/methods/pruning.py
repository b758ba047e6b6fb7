"""Depth-skip pruning (Kim et al. 2024, Sec. 3.2): a finished run with a shallower network, trained on as it was."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import ClassVar

from diffi2i.config.build import refuse_missing_peer
from diffi2i.config.compose import typed_options
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.method import Method
from diffi2i.models.depth import DEPTH


@dataclass
class DepthSkipOptions:
    """`depth` is that of the network, see `models.unet.DenoisingUNet.keep` and `models.di2iformer.UShaped.keep`."""

    depth: int | None = None


class DepthSkip(Method):
    """Stands for the method of the run that `init` is, on that run's model at `depth`.

    So the objective of the fine-tuning, the prediction, and what `eval`, `predict` and the tables make of the run are
    those of a run of that method whose network is smaller.
    """

    Options: ClassVar[type] = DepthSkipOptions

    @classmethod
    def settled(cls, config: Config, init: Config | None) -> Config:
        """Raises `UserError`: no run to start from, no depth, or one that the run does not have."""
        name, depth = config.method["name"], typed_options(DepthSkipOptions, config).depth
        if init is None:
            raise UserError(f"method={name} needs a finished run: write method.init=<run of a U-shaped network>")
        if depth is None:
            raise UserError(f"method.depth is missing: diffi2i compress run={config.init} searches for one")
        network = init.model.network
        check_network(config.method["init"], str(network["_target_"]))
        if depth > (before := network.get(DEPTH, depth)):
            raise UserError(f"method.depth={depth}: method.init={config.init} has depth {before}: write less")
        return replace(
            config,
            method=init.method | {key: config.method[key] for key in ("init", "role")},
            model=replace(init.model, network=network | {DEPTH: depth}),
        )


def check_network(run: str, network: str) -> None:
    """Raises `UserError`: the run's network is of no class with a depth, or its package is missing."""
    try:
        kind = resolve_name(network)
    except ImportError as error:
        refuse_missing_peer(f"method.init={run}, {network},", error)
        raise
    if not hasattr(kind, "keep"):
        raise UserError(
            f"method.init={run} has a {kind.__name__}, which has no depth: name a run of a U-shaped network, a "
            "DI2Iformer, DIRformer or DenoisingUNet"
        )


def fine_tuning(run: Path, config: Config, depth: int) -> str:
    """The command that prunes a run of this configuration and trains on what is left."""
    root = config.dataset.source.get("root")
    data = [f"dataset={config.dataset.name}", *([f"root={root}"] if root else [])]
    own = ["method=depth_skip", f"method.init={run}", f"method.depth={depth}"]
    return shlex.join(["diffi2i", "train", f"task={config.task.name}", *data, f"budget={config.budget}", *own])
