"""Reads checkpoints from strangers: tensors and containers alone, nothing in the file runs."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffi2i.errors import UserError

# Settings that trainers keep beside the tensors. What their classes are called stands in for them, nothing more.
SETTINGS = ("omegaconf.", "lightning.", "pytorch_lightning.", "typing.", "collections.defaultdict", "builtins.")
# Of `builtins` the plain containers' names alone: as types of settings, they are never called.
PLAIN = ("dict", "list", "tuple", "set", "int", "float", "str", "bool", "bytes", "object")


class Settings:
    """In place of an object of a class that is not loaded. It keeps nothing and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Settings":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...


def read_tensors(file: Path) -> dict[str, Any]:
    """What a `.pth`, `.ckpt` or `.safetensors` file holds.

    Raises:
        UserError: no such file, another kind of file, a damaged one, or one that would run code.
    """
    if not file.is_file():
        raise UserError(f"{file} is no file: name a checkpoint")
    if file.suffix not in (".pth", ".ckpt", ".pt", ".safetensors"):
        raise UserError(f"{file} is no checkpoint: name a .pth, .ckpt or .safetensors file")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that torch does not write
            found = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise damaged(file, error) from error
    except Exception as error:
        if "Unsupported global" not in str(error) and "weights_only" not in str(error).lower():
            raise damaged(file, error) from error
        found = read_beside_settings(file, error)
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a {type(found).__name__}, not a dictionary of tensors")
    return found


def read_beside_settings(file: Path, refusal: Exception) -> Any:
    """The same, where `refusal` was for settings that stand beside the tensors."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception as error:
        # Of a file from before torch 1.6, which is no archive, torch names the first alone, and does not allow it.
        if named := re.search(r"Unsupported global: GLOBAL (\S+)", str(refusal)):
            raise UserError(f"{file} would run {named[1]}: it is not loaded") from error
        raise damaged(file, refusal) from error
    for name in unknown:
        if not name.startswith(SETTINGS) or (name.startswith("builtins.") and name[len("builtins.") :] not in PLAIN):
            raise UserError(f"{file} would run {name}: it is not loaded")
    inert: Any = [(type("Settings", (Settings,), {}), name) for name in unknown]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> UserError:
    why = str(error).strip() or type(error).__name__
    if "Weights only load failed" in why:  # where torch says how to load it all the same
        found = re.search(r"WeightsUnpickler error:\s*(.+)", why)
        why = found[1] if found else "more than tensors"
    return UserError(f"{file} is damaged, or no checkpoint ({why.splitlines()[0].partition('. ')[0].rstrip(' .')})")


def check_finite(file: Path, state: dict[str, Tensor]) -> None:
    """Raises `UserError`: a tensor has values that are no numbers."""
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{file}: {name} has values that are not finite: the file is damaged")
