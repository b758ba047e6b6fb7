"""Small pictures on disk, and what a source lists of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from diffi2i.data.sources import Item


def make(root: Path, *names: str) -> Path:
    """Saves a grey picture under each name below `root`, each another grey, as PNG whatever its suffix."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(path, "PNG")
    return root


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]
