"""The configuration that a run directory keeps, and under which other settings a finished run may be scored."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.config import compose
from diffi2i.config.checks import check_filled
from diffi2i.config.compose import METHOD_KEYS, explain, unknown_key
from diffi2i.config.schema import Config
from diffi2i.config.trust import check_file, read_yaml
from diffi2i.errors import UserError

# What of a run may be changed when it is scored anew: nothing that its training depended on. Of its options a
# method says which: `Method.scored_under`.
OF_SCORING = ("method.", "task.protocol.", "task.degrade", "train.val_crop", "train.val_crops")


def read_run_config(run_dir: Path, changes: Sequence[str] = (), trust: Sequence[str] = ()) -> Config:
    """The configuration a run directory was trained with, under the overrides `changes`, which concern its scoring.

    It may name the classes and functions of which runs are made and those of the modules `trust`; see `config.trust`.
    Without the logger, which was that of the training.

    Raises:
        UserError: no such file, not one of this version's, names what it may not, or a change that cannot be.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"{run_dir} is no run directory: it has no config.yaml")
    saved = read_yaml(file)
    if "stage" in saved:
        raise UserError(f"{file} is of version 0.1, whose settings were others: train the run anew")
    saved.logger, saved.trust = None, [*trust]
    check_file(file, saved, trust, compose.conf_dir())
    try:
        for change in changes:
            change_scoring(saved, change)
        config: Config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), saved))  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{file} does not fit this version: {explain(error, Config)}") from error
    check_filled(asdict(config))
    return config


def change_scoring(saved: Any, change: str) -> None:
    """Sets one key of a run's configuration; the new value stands in place of the old, dictionaries included."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([change])
    except HydraException as error:
        raise UserError(f"set: {explain(error, Config)}") from error
    key = str(parsed.key_or_group)
    if not key.startswith(OF_SCORING) or key.removeprefix("method.") in METHOD_KEYS:
        raise UserError(
            f"set={key}: not a setting under which a run can be scored: write method.<option>, task.protocol.<key>, "
            "task.degrade or train.val_crop"
        )
    if OmegaConf.select(saved, key, default=MISSING) is MISSING:
        raise UserError(f"set: {unknown_key(key, Config)}")
    OmegaConf.update(saved, key, parsed.value(), merge=False)
