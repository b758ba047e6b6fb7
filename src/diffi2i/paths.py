"""Where files are written: inside the folder that the user named."""

from pathlib import Path

from diffi2i.errors import UserError


def inside(folder: Path, name: str) -> Path:
    """The path `folder/name`. Raises `UserError`: it leads out of the folder, by `..`, a slash before it, or a link."""
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle; a name that no file can have
        within = False
    if not within:
        raise UserError(f"{path!s} leads out of {folder}: rename it, remove the link, or write another output")
    return path


def check_name(key: str, name: str) -> None:
    """Raises `UserError`: a name that becomes a folder's is a path, or no name at all."""
    if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        raise UserError(f"{key}={name!a} becomes a folder's name: write one without slashes")
