"""Run directories: whose they are, and the weights inside.

config.yaml            the resolved configuration
origin.json            what the run is made of, by content: its data, the run it starts from, keys changed on the way
data.jsonl.gz          the files behind these hashes
checkpoints/           everything an interrupted training needs to go on; see `checkpoints`
weights.safetensors    the averaged weights, once training is done
training.json          steps made, time taken and the weights' hash, once training is done
images/, panel.png     inputs, outputs and targets of validation images
logs/                  curves
result.json            the record; its presence says that the run is finished
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf

from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config
from diffi2i.config.trust import modules_named
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.manifest import changes, file_hash, hash_of_manifest, read_manifests, write_manifests
from diffi2i.errors import UserError
from diffi2i.files import TEMPORARY, clear_leftovers, read_json, whole, write_json
from diffi2i.methods.build import new_method, without_pretrained
from diffi2i.methods.method import Method
from diffi2i.run import checkpoints
from diffi2i.run.hardware import is_first_rank
from diffi2i.run.identity import PLACES, first_difference
from diffi2i.run.record import Init, Record
from diffi2i.run.state import has_checkpoint

# What may change while a training is under way: how long it takes, and what keeps it from diverging.
CHANGEABLE = ("train.steps", "train.lr", "train.warmup", "train.clip", "task.optimizer.lr")
WEIGHTS = "weights.safetensors"
SHOWN = 3  # files of changed data that an error names


def origin_of(config: Config, data: ImageDataModule) -> dict[str, Any]:
    """What the run is made of: hashes of its data, and of the weights and the configuration that it starts from.

    Reads all files of both splits. Raises `UserError`: one cannot be read.
    """
    init = None if config.init is None else asdict(init_of(config.init))
    return {"train": hash_of_manifest(data.manifests["train"]), "val": data.val_manifest, "init": init}


def init_of(run_dir: Path) -> Init:
    """What the record of a run that starts from this one says of it."""
    record = Record.read(run_dir)
    if record.method is None or record.training is None or record.provenance.config_hash is None:
        raise UserError(f"{run_dir} is no trained run: name another as method.init")
    return Init(
        method=record.method.name,
        weights=file_hash(run_dir / WEIGHTS),
        config_hash=record.provenance.config_hash,
        network_steps=record.training.network_steps,
    )


def claim(run_dir: Path, config: Config, data: ImageDataModule, origin: dict[str, Any]) -> bool:
    """Makes the directory this run's own, or goes on with what it holds; False where its run is finished.

    Raises:
        UserError: it holds another run, a run on other data or from other weights, or something else.
    """
    finished, done = ((run_dir / name).is_file() for name in ("result.json", WEIGHTS))
    known = dict(origin)
    if finished or done or has_checkpoint(run_dir):
        changed = check_own(run_dir, config, data, origin, done or finished)
        if finished:
            Record.read(run_dir)  # refuses a damaged one
            return False
        before = read_json(run_dir / "origin.json") if (run_dir / "origin.json").is_file() else {}
        known["changed"] = [*before.get("changed", []), *changed]
        for change in changed if is_first_rank() else []:
            print(
                f"{change['key']} is {change['to']} from step {change['step']} on, it was {change['from']}", flush=True
            )
    elif is_first_rank() and run_dir.is_dir() and is_of_others(run_dir):
        raise UserError(f"{run_dir} is not empty and holds no run: name another run_dir")
    if not is_first_rank():
        return True
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for folder in (run_dir, run_dir / "checkpoints"):
            clear_leftovers(folder)
        # First what tells the folder to be a run: one that is killed in between must not be refused.
        write_json(run_dir / "origin.json", known)
        write_manifests(run_dir / "data.jsonl.gz", data.manifests)
        write_config(run_dir, config)
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {error.strerror}") from error
    return True


def write_config(run_dir: Path, config: Config) -> None:
    with whole(run_dir / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.structured(config), temporary)


def is_of_others(folder: Path, own: str = "origin.json") -> bool:
    """Whether there are files in it, but not the one that a run of ours begins with."""
    return not (folder / own).is_file() and any(file.suffix != TEMPORARY for file in folder.iterdir())


def check_own(
    run_dir: Path, config: Config, data: ImageDataModule, origin: dict[str, Any], done: bool
) -> list[dict[str, Any]]:
    """The run in the directory is this one; what it is comes from its content, not from where its parts lie.

    Returns:
        The keys that this call changes, each with `key`, `from`, `to` and the `step` from which it holds.

    Raises:
        UserError: it is not, or its training is `done` and something was to change.
    """
    ours = asdict(config)
    saved = asdict(read_run_config(run_dir, trust=[*config.trust, *modules_named(ours)]))
    if difference := first_difference(saved, ours, (*PLACES, *CHANGEABLE)):
        key, before, now = difference
        raise UserError(f"{run_dir} holds a run with {key}={before}, this one has {now}: name another run_dir")
    check_origin(run_dir, config, data, origin)
    differing = [
        found
        for key in CHANGEABLE
        if (found := first_difference(saved, ours, tuple(other for other in (*PLACES, *CHANGEABLE) if other != key)))
    ]
    if any(key == "train.lr" for key, _, _ in differing):  # which task.optimizer.lr follows
        differing = [change for change in differing if change[0] != "task.optimizer.lr"]
    if not differing:
        return []
    key, before, now = differing[0]
    if done:
        raise UserError(f"{run_dir} has been trained with {key}={before}, not {now}: name another run_dir")
    last = checkpoints.newest(run_dir)
    steps = checkpoints.read(last).steps if last else 0
    if config.train.steps < steps:
        raise UserError(f"{run_dir} has made {steps} steps: write train.steps={steps} or more, or another run_dir")
    return [{"step": steps, "key": key, "from": before, "to": now} for key, before, now in differing]


def check_origin(run_dir: Path, config: Config, data: ImageDataModule, origin: dict[str, Any]) -> None:
    """The data and the weights it starts from are those that the run in the directory began with; else `UserError`."""
    if not (run_dir / "origin.json").is_file():
        return
    before = read_json(run_dir / "origin.json")
    if (before["train"], before["val"]) != (origin["train"], origin["val"]):
        found = changes(read_manifests(run_dir / "data.jsonl.gz"), data.manifests)
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{run_dir} holds a run on other data ({'; '.join(found[:SHOWN])}{more}): put the files back as they were, "
            "or name another run_dir"
        )
    if before["init"] != origin["init"]:
        raise UserError(
            f"{run_dir} holds a run that started from other weights than method.init={config.init} has: "
            "name the run that it started from, or another run_dir"
        )


def load_method(run_dir: Path, changes: Sequence[str] = (), trust: Sequence[str] = ()) -> Method:
    """A finished run's method with its (averaged) weights, under `changes`; for both see `config.read_run_config`.

    Raises:
        UserError: the weights are missing or belong to another model, or a change that cannot be.
    """
    config = read_run_config(run_dir, changes, trust)
    weights, facts = run_dir / WEIGHTS, run_dir / "training.json"
    if not weights.is_file():
        raise UserError(f"{run_dir} has no {WEIGHTS}: its training has not finished")
    if facts.is_file() and (written := read_json(facts).get("weights")) and written != file_hash(weights):
        raise UserError(
            f"{weights} is damaged, or not what the training wrote: put it back, or delete it and result.json and give "
            "the command of the training again"
        )
    method = new_method(without_pretrained(config))
    made = method.trains or type(method).calibrate is not Method.calibrate
    for key in (change.partition("=")[0] for change in changes if made):
        if key.startswith("method.") and key.split(".")[1] not in method.scored_under:
            known = ", ".join(f"method.{option}" for option in method.scored_under if option in config.method)
            raise UserError(f"set={key}: the run was made with it: of its method write one of {known or 'nothing'}")
    load_weights(method, weights)
    return method


def load_weights(method: Method, file: Path) -> None:
    """All weights but those `in_training`. Raises `UserError`: they are of another model."""
    try:
        missing, unexpected = method.load_state_dict(safetensors.torch.load_file(file), strict=False)
    except Exception as error:
        raise UserError(f"{file} does not hold the model of its config.yaml: {str(error).splitlines()[0]}") from error
    if wrong := [*(key for key in missing if is_kept(key, method)), *unexpected]:
        raise UserError(f"{file} does not hold the model of its config.yaml: {wrong[0]} is only in one of them")


def save_weights(method: Method, file: Path) -> None:
    """All weights but those `in_training`, as averaged by the EMA, in a format that cannot carry code."""
    kept = {key: value for key, value in method.state_dict().items() if is_kept(key, method)}
    # Copies, since the format refuses one tensor under several names, as MPRNet has its activation.
    copies = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in kept.items()}
    with whole(file) as temporary:
        # Not `save_file`, which hides why a disk did not take it.
        temporary.write_bytes(safetensors.torch.save(copies))


def is_kept(key: str, method: Method) -> bool:
    """Whether a weight is one of a finished run: a discriminator's is not."""
    return key.partition(".")[0] not in method.in_training
