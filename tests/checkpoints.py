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
