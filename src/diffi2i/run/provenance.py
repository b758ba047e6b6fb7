"""When and where a record was made: the code, the packages, the machine."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diffi2i.config.schema import Config
from diffi2i.run.hardware import uses_bf16
from diffi2i.run.identity import config_hash
from diffi2i.run.record import Provenance

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = ("diffi2i", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def git_commit(package: Path = PACKAGE) -> str | None:
    """Commit of the package's checkout, with `+` where its files are not as in it; None where there is none.

    Other files of the checkout do not count: a list of results that grows while its runs go on is no other code. Nor
    does a checkout in whose virtual environment the package is installed.
    """
    try:
        _, commit, changed = (
            subprocess.run(
                ["git", *words], cwd=package, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (
                ("ls-files", "--error-unmatch", "__init__.py"),
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "--", "."),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def hardware(config: Config | None) -> dict[str, Any]:
    """The machine, and what decides the last bits: the instructions that torch uses, the networks' precision."""
    found = {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return found | ({"precision": "bf16" if uses_bf16(config.trainer) else "fp32"} if config else {})


def provenance(config: Config | None = None) -> Provenance:
    """That of a record made now; `config` is the run's, None where there is none."""
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=git_commit(),
        config_hash=config_hash(config) if config else None,
        versions=installed_versions(),
        hardware=hardware(config),
    )
