"""Files of weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def saved(content: Any, file: Path) -> Path:
    """The file with this content, in the format of its suffix."""
    if file.suffix == ".safetensors":
        save_file(content, file)
    else:
        torch.save(content, file)
    return file


class Running:
    """What a pickle would run when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call
