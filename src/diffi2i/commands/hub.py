"""`diffi2i push` and `diffi2i pull`: exports on the Hugging Face hub, and the demo's weights."""

from pathlib import Path

from diffi2i.config.commands import ExportConfig, PullConfig, PushConfig
from diffi2i.errors import UserError
from diffi2i.run.hub import PREFIX, pulled, pushed
from diffi2i.run.release import demo_row, instead, unpacked

BUDGET = "demo"
"""Of what is trained here."""


def push(config: PushConfig) -> None:
    """Raises `UserError`: no export, not signed in, or a hub that does not answer."""
    address = pushed(Path(config.run), config.repo.removeprefix(PREFIX), config.private)
    print(f"{address}: anyone who may see it can write run={PREFIX}{config.repo.removeprefix(PREFIX)}")


def pull(config: PullConfig) -> Path:
    """Raises `UserError`: no such repository, a folder that holds something, or a hub that does not answer."""
    repo = config.repo.removeprefix(PREFIX)
    output = Path(config.output or repo.partition("@")[0].replace("/", "-"))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output={output} is there already: name another")
    row = demo_row(config.repo)
    if row is None and (config.train or config.release):
        raise UserError(f"repo={config.repo} is on the hub: leave out train and release, which are for demo/<task>")
    if row is None:
        found = pulled(repo, output)
    elif config.train:
        return trained(row, output)
    elif config.release:
        found = unpacked(row, config.release, output)
    else:
        raise UserError(f"{row}: name a release (release=<folder or address>), or {instead(row)}")
    print(f"{found}: {', '.join(sorted(file.name for file in found.iterdir() if file.is_file()))}")
    return found


def trained(row: str, output: Path) -> Path:
    """What a release would hold, trained here, or gone on with. Raises `UserError`: the training fails."""
    # Seconds to import, which nothing else here needs.
    from diffi2i.commands.export import export
    from diffi2i.run.ensure import ensure
    from diffi2i.run.plan import lineage, planned
    from diffi2i.run.state import Failure, read

    run = planned([f"experiment={row}", f"budget={BUDGET}"])
    ensure(lineage(run))
    if isinstance(entry := read(run), Failure):
        raise UserError(f"{row}: {entry.reason}")
    return export(ExportConfig(run=str(run.directory), output=str(output), license="apache-2.0"))
