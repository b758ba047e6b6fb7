"""Objects from the `_target_` nodes of a configuration."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffi2i.errors import UserError, WeightsUnavailableError


def build(node: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Hydra's `instantiate`; an error is a `UserError` of one line: the key, and what its class says of the cause."""
    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, WeightsUnavailableError):
            raise UserError(str(cause)) from error
        raise UserError(f"{key}: {str(cause).splitlines()[0]}") from error
