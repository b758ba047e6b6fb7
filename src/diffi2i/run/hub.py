"""Runs on the Hugging Face hub: `hf:<user>/<name>` wherever a finished run is named."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffi2i.errors import UserError

PREFIX = "hf:"
KINDS = ("*.safetensors", "*.onnx", "*.pt2", "config.yaml", "result.json", "README.md")
"""What is sent and fetched: the files that `diffi2i export` writes."""
ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", re.ASCII)


def located(run: str) -> Path:
    """The run's directory; one on the hub is fetched into the hub's cache first, and from then on found there.

    Raises:
        UserError: no such repository, no network, or one without a run.
    """
    return pulled(run.removeprefix(PREFIX)) if run.startswith(PREFIX) else Path(run)


def pulled(repo: str, folder: Path | None = None) -> Path:
    """Fetches `user/name` or `user/name@revision` into `folder`, else the cache. Raises `UserError` as `located`."""
    from huggingface_hub import snapshot_download

    check_id(repo)
    name, _, revision = repo.partition("@")
    with in_one_line(repo):
        found = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(KINDS), local_dir=folder))
    if not (found / "config.yaml").is_file():
        raise UserError(f"{PREFIX}{repo} holds no run of DiffI2I: it has no config.yaml")
    return found


def pushed(folder: Path, repo: str, private: bool) -> str:
    """Sends an export to `user/name`, which is made where there is none. Returns its address.

    Raises:
        UserError: not signed in, no right to write there, no network, or a folder that is no export.
    """
    from huggingface_hub import HfApi

    check_id(repo)
    if "@" in repo:
        raise UserError(f"repo={repo}: write it without a revision")
    if not ((folder / "config.yaml").is_file() and (folder / "README.md").is_file()):
        raise UserError(f"{folder} is no export: write diffi2i export run=<run> output=<folder> first")
    api = HfApi()
    with in_one_line(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(KINDS), commit_message="diffi2i push")
    return f"{api.endpoint}/{repo}"


def check_id(repo: str) -> None:
    if not ID.fullmatch(repo):
        raise UserError(f"'{repo}' is no name on the hub: write <user>/<name>")


@contextmanager
def in_one_line(repo: str) -> Iterator[None]:
    """Turns what the hub, or its absence, answers into a `UserError` of one line."""
    try:
        yield
    except Exception as error:
        if (why := reason(error)) is None:
            raise
        raise UserError(f"{PREFIX}{repo} {why}") from error


def reason(error: Exception) -> str | None:
    """What is wrong with a repository; None where the error says nothing of it."""
    from huggingface_hub import errors

    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    match error:
        case errors.RevisionNotFoundError():
            return "has no such revision"
        case errors.GatedRepoError():
            return "is gated: ask for access there, then sign in by `hf auth login`"
        case errors.RepositoryNotFoundError():
            return "is not there, or not for you: check the name, or sign in by `hf auth login`"
        case errors.LocalTokenNotFoundError():
            return f"needs you to be signed in: `hf auth login` ({first})"
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return "is not yours to write to: sign in by `hf auth login`"
        case errors.HfHubHTTPError():
            return f"answered with status {error.response.status_code}: try again later"
        case errors.LocalEntryNotFoundError() | OSError():
            return f"cannot be reached, and is not in the cache ({first})"
        case _ if type(error).__module__.startswith("http"):  # of whichever client the package has
            return f"cannot be reached ({first})"
    return None
