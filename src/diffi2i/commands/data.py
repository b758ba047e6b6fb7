"""`diffi2i data check`: what a dataset holds, all that is wrong with it, and its manifest."""

import sys
from pathlib import Path

from diffi2i.config.build import build
from diffi2i.config.checks import check_source
from diffi2i.config.commands import DataConfig
from diffi2i.config.schema import DatasetConfig
from diffi2i.data.check import check_dataset, write_manifest
from diffi2i.data.sources import Split
from diffi2i.files import json_output


def data(config: DataConfig) -> None:
    """Checks `config.dataset`, prints the report and writes the manifest.

    The manifest goes to `config.output`, by default outputs/data/<dataset name>/manifest.json.

    Raises:
        UserError: no such folder, source or target reader, or a manifest that cannot be written.
        SystemExit: status 1, with the manifest written, where anything is broken.
    """
    dataset = config.dataset
    check_source(dataset)
    output = json_output(config.output) if config.output else Path(f"outputs/data/{dataset.name}/manifest.json")
    reader = None if dataset.target is None else build(dataset.target, "dataset.target")
    report = check_dataset(dataset, build(dataset.source, "dataset.source"), reader, splits_of(dataset))
    for line in report.lines():
        print(line)
    write_manifest(report, output)
    print(f"manifest: {output}")
    if report.broken:
        sys.exit(1)


def splits_of(dataset: DatasetConfig) -> list[Split]:
    """The splits that a dataset has: those it gives counts of, else both, or "val" alone where only that has a folder.

    The last is how `diffi2i eval` takes a folder, so its hash can be had here too.
    """
    if dataset.expected:
        return [split for split in ("train", "val") if split in dataset.expected]
    only_val = dataset.source.get("val_root") is not None and dataset.source.get("root") is None
    return ["val"] if only_val else ["train", "val"]
