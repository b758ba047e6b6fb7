"""Objects from the `_target_` nodes of a configuration."""

import re
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffi2i.errors import UserError, WeightsUnavailableError

PEERS = ("diffusers", "spandrel", "spandrel_extra_arches")
"""What the extra `peers` installs."""


def build(node: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Hydra's `instantiate`; an error is a `UserError` of one line: the key, and what its class says of the cause."""
    if not node.get("_target_"):
        raise UserError(f"{key}._target_ is missing: name a class")
    try:
        return instantiate(node, _convert_="all", **arguments)
    except (InstantiationException, TypeError, ValueError) as error:  # the latter of what Hydra's own keys hold
        cause = error.__cause__ or error
        if isinstance(cause, WeightsUnavailableError):
            raise UserError(str(cause)) from error
        refuse_missing_peer(f"{key}={node['_target_']}", error)
        # A class knows its arguments, not where they stand in the configuration.
        own = "|".join(map(re.escape, node))
        line = re.sub(rf"\bwrite (?=({own})=)", f"write {key}.", str(cause).splitlines()[0])
        raise UserError(f"{key}: {line}") from error


def refuse_missing_peer(what: str, error: BaseException) -> None:
    """Raises `UserError` where `error` comes from a package of the extra `peers` that is not installed."""
    cause: BaseException | None = error
    while cause is not None:
        package = (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""
        if package in PEERS:
            raise UserError(f"{what} needs {package}: pip install 'diffi2i[peers]'") from error
        cause = cause.__cause__
