"""`diffi2i push` and `diffi2i pull`: exports on the Hugging Face hub."""

from pathlib import Path

from diffi2i.config.commands import PullConfig, PushConfig
from diffi2i.errors import UserError
from diffi2i.run.hub import PREFIX, pulled, pushed


def push(config: PushConfig) -> None:
    """Raises `UserError`: no export, not signed in, or a hub that does not answer."""
    address = pushed(Path(config.run), config.repo.removeprefix(PREFIX), config.private)
    print(f"{address}: anyone who may see it can write run={PREFIX}{config.repo.removeprefix(PREFIX)}")


def pull(config: PullConfig) -> Path:
    """Raises `UserError`: no such repository, a folder that holds something, or a hub that does not answer."""
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output={output} is there already: name another")
    found = pulled(config.repo.removeprefix(PREFIX), output)
    print(f"{found}: {', '.join(sorted(file.name for file in found.iterdir() if file.is_file()))}")
    return found
