"""DiffIR's own networks, from a checkout of github.com/Zj-BinXia/DiffIR, without what trains them there."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDERS = {"inpainting": "DiffIR-inpainting", "sisr": "DiffIR-SRGAN", "deblur": "DiffIR-demotionblur"}
SIZES: dict[str, dict[str, Any]] = {
    "inpainting": {
        "n_encoder_res": 5, "inp_channels": 4, "dim": 52, "num_blocks": [1, 1, 1, 9], "num_refinement_blocks": 0,
        "ffn_expansion_factor": 1.8, "LayerNorm_type": "WithBias",
    },
    "sisr": {
        "n_encoder_res": 9, "dim": 64, "num_blocks": [13, 1, 1, 1], "num_refinement_blocks": 13,
        "ffn_expansion_factor": 2.2, "LayerNorm_type": "BiasFree", "scale": 4,
    },
    "deblur": {
        "n_encoder_res": 5, "dim": 48, "num_blocks": [3, 5, 6, 6], "num_refinement_blocks": 4,
        "ffn_expansion_factor": 2, "LayerNorm_type": "WithBias",
    },
}  # fmt: skip
"""Of their configuration files."""


class Registry:
    """Stands in for BasicSR's, which only notes the classes."""

    def register(self) -> Any:
        return lambda kind: kind


def load(checkout: Path, task: str) -> tuple[Any, Any]:
    """Their `DiffIRS1` and `DiffIRS2`. A process can load those of one task only: the folders share their names.

    Raises:
        SystemExit: one line, the checkout lacks the folder.
    """
    folder = checkout / FOLDERS[task]
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder: DIFFIR names no checkout of DiffIR")
    sys.path.insert(0, str(folder))
    registry: Any = ModuleType("basicsr.utils.registry")
    registry.ARCH_REGISTRY = Registry()
    sys.modules |= {"basicsr": ModuleType("basicsr"), "basicsr.utils": ModuleType("utils"), registry.__name__: registry}
    archs = "archs" if task == "inpainting" else "DiffIR.archs"
    for name in ("DiffIR", "DiffIR.archs") if task != "inpainting" else ():
        package = ModuleType(name)  # without their __init__, which imports all else
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    first, second = (importlib.import_module(f"{archs}.{stage}_arch") for stage in ("S1", "S2"))
    one, two = dict(SIZES[task]), dict(SIZES[task])
    return first.DiffIRS1(**one), second.DiffIRS2(**two, n_denoise_res=1, timesteps=4)
