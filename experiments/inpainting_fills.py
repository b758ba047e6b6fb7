"""Classical fills of the same holes that a run is scored on: OpenCV's Telea and scikit-image's biharmonic.

    python experiments/inpainting_fills.py <run> [<folder of images>]

Prints the mean PSNR inside the hole and writes it to `fills.json` beside the run's scores. The images and masks are
those of `diffi2i eval run=<run> dataset=folder root=<folder>`, or without a folder those the run was validated on.
Needs `pip install opencv-python-headless`.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track
from skimage.restoration import inpaint_biharmonic

from diffi2i.config.run import read_run_config
from diffi2i.data.build import build_data
from diffi2i.data.resize import to_uint8
from diffi2i.files import write_json
from diffi2i.metrics.image import ImageScores

TELEA_RADIUS = 5


def telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) bool -> (H, W, 3) uint8."""
    filled: np.ndarray = cv2.inpaint(image, hole.astype(np.uint8), TELEA_RADIUS, cv2.INPAINT_TELEA)
    return filled


def biharmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) bool -> (H, W, 3) uint8."""
    filled = inpaint_biharmonic(image, hole, channel_axis=-1, split_into_regions=False)
    rounded: np.ndarray = np.rint(filled.clip(0, 1) * 255).astype(np.uint8)
    return rounded


def main(run: Path, folder: Path | None) -> None:
    config = read_run_config(run)
    output = run
    if folder is not None:
        config.dataset.source = {
            "_target_": "diffi2i.data.sources.folder",
            "_partial_": True,
            "val_root": str(folder),
        }
        output = run / "eval" / "folder"
    output.mkdir(parents=True, exist_ok=True)
    data = build_data(config)
    data.setup("validate")
    sheets = {fill: ImageScores(config.task.protocol) for fill in (telea, biharmonic)}
    for sample in track(data.val_dataloader(), description="filling"):
        image = to_uint8(sample["input"][0]).permute(1, 2, 0).numpy()
        hole = sample["mask"][0, 0].numpy() > 0
        for fill, sheet in sheets.items():
            filled = torch.from_numpy(fill(np.ascontiguousarray(image), hole)).permute(2, 0, 1)[None].float() / 255
            sheet.update(filled, sample["target"], names=sample["name"], mask=sample["mask"])
    scores = {fill.__name__: sheet.compute() for fill, sheet in sheets.items()}
    for name, values in scores.items():
        print(f"{name}: {values['psnr_hole']:.2f} dB inside the hole, {len(data.val_items)} images")
    write_json(output / "fills.json", scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
