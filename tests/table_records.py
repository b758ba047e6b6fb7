"""Records as runs leave them, without the runs."""

from typing import Any

import numpy as np

from diffi2i.tables.records import Filled

VERSIONS = {"python": "3.11.7", "torch": "2.14.1"}
HARDWARE = {"gpu": None, "cpu": "x86_64", "cpu_count": 2, "threads": 1}


def record(psnr: list[float], seed: int = 0, **changes: Any) -> dict[str, Any]:
    """An inpainting record with `psnr` inside the hole for images a, b, c, ...; FID stands for a score of a set."""
    images = [{"name": chr(97 + i), "psnr_hole": value} for i, value in enumerate(psnr)]
    base = {
        "version": 2,
        "task": "inpainting",
        "stage": "joint",
        "budget": "joint",
        "prior": "joint",
        "timesteps": None,
        "init": {"weights": "d" * 64, "config_hash": "89abcdef", "network_steps": 100},
        "scale": "demo",
        "seed": seed,
        "config_hash": "01234567",
        "protocol": {"border": 0, "metrics": ["psnr_hole", "fid"]},
        "dataset": {"name": "photos", "train": "a" * 64, "val": "b" * 64},
        "degrade": {"mask": "wide", "low": 0.1},
        "val_crop": 64,
        "inputs": "c" * 64,
        "main_metric": "psnr_hole",
        "metrics": {"psnr_hole": float(np.mean(psnr)), "fid": None, "prior_dependence": 0.5},
        "baseline": {"psnr_hole": 12.0, "fid": None},
        "n_images": {"psnr_hole": len(psnr), "fid": 0},
        "reasons": {"fid": "no Inception weights"},
        "per_image": images,
        "constant": None,
        "parameters": 2_600_000,
        "seconds_per_image": 0.0456,
        "measured_at": [3, 64, 64],
        "network_steps": 300,
        "wall_time_s": 100.0,
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef+",
        "versions": VERSIONS,
        "hardware": HARDWARE,
    }
    return base | changes


def of_task(task: str, metric: str, value: float, gain: float, baseline: float, **changes: Any) -> dict[str, Any]:
    """A record of another task, which has a single score of a single image."""
    return record(
        [1.0],
        task=task,
        main_metric=metric,
        metrics={metric: value, "prior_dependence": gain},
        baseline={metric: baseline},
        n_images={metric: 1},
        **changes,
    )


def scored(psnr: list[float], seed: int = 0, fid: float | None = None, gain: float = 0.5) -> dict[str, Any]:
    """A record with an FID and a prior dependence."""
    plain = record(psnr, seed)
    return plain | {
        "metrics": plain["metrics"] | {"fid": fid, "prior_dependence": gain},
        "n_images": plain["n_images"] | {"fid": 0 if fid is None else len(psnr)},
    }


def filled(**rows: Any) -> Filled:
    """A row's entries in the order of their seeds, by the row's name."""
    return Filled({(row, seed): entry for row, entries in rows.items() for seed, entry in enumerate(entries)})
