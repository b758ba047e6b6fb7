"""Parts of a configuration for tests that need some of their values, and the tasks that there are."""

from typing import Any

from diffi2i.config.compose import conf_dir
from diffi2i.config.schema import ProtocolConfig, TaskConfig, TrainConfig, TrainerConfig

TASKS = sorted(file.stem for file in (conf_dir() / "task").glob("*.yaml"))
CPU = TrainerConfig(accelerator="cpu", precision="fp32", progress=False)


def task_config(**values: Any) -> TaskConfig:
    """A task of these values; what else it must have is empty, but for a score to judge images by."""
    rest: dict[str, Any] = {"name": "test", "losses": {}, "optimizer": {}, "budgets": {}, "main_metric": "psnr"}
    if values.get("kind", "image") == "image":
        rest["protocol"] = ProtocolConfig(metrics=["psnr"])
    return TaskConfig(**rest | values)


def train_config(**values: Any) -> TrainConfig:
    """What a budget gives to a run: these values, the rest as small as can be."""
    sizes: dict[str, Any] = {"steps": 1, "batch": 1, "patch": 1, "epoch_steps": 1}
    return TrainConfig(**{**sizes, "loss": "l1", "lr": 1e-3, "ema_decay": 0.0} | values)
