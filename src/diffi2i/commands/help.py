"""`diffi2i <command> --help`: the head of the command's configuration file, and its keys with types and defaults."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import takewhile
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.config.compose import completed, conf_dir, nested_schema
from diffi2i.errors import UserError

WIDTH = 120


def text(schema: type, name: str, overrides: Sequence[str]) -> str:
    """What `--help` prints; the defaults are those under the overrides. Raises `UserError`: they do not compose."""
    lines = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#").removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    try:
        _, composed = completed(schema, name, overrides)
    except UserError:
        if overrides:
            raise
        composed = OmegaConf.structured(schema)  # of a command whose groups have no defaults
    rows = [("key", "type", "default"), *keys(schema, composed)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    table = [f"  {key:<{widths[0]}}  {kind:<{widths[1]}}  {value}".rstrip() for key, kind, value in rows]
    return "\n".join([*head, "", *groups(schema), *(line[:WIDTH] for line in table), ""])


def groups(schema: type) -> list[str]:
    """A paragraph for each key that takes the name of a file of `conf/<key>/`."""
    lines = []
    for field in fields(schema):
        if choices := sorted(path.stem for path in (conf_dir() / field.name).glob("*.yaml")):
            start = f"  {field.name}="
            lines += textwrap.wrap(", ".join(choices), WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
    return [*lines, ""] if lines else []


def keys(schema: type, composed: DictConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, type and default of all that can be written; of a dictionary that is open to any keys, those it has."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        node = OmegaConf.select(composed, field.name, throw_on_resolution_failure=False)
        if (nested := nested_schema(hint)) and isinstance(node, DictConfig):
            yield from keys(nested, node, f"{key}.")
        elif isinstance(node, DictConfig) and "Any" in str(hint):
            for own in map(str, node):
                found = value(node, own)
                yield f"{key}.{own}", "" if found is None else type(found).__name__, shown(found)
        else:
            kind = re.sub(r"[\w.]+\.", "", str(hint)) if get_args(hint) else hint.__name__
            yield key, kind, shown(value(composed, field.name))


def value(node: DictConfig, key: str) -> Any:
    """The value at a key, as it is written where it cannot be resolved without a run."""
    try:
        found: Any = node[key]
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except OmegaConfBaseException:
        plain: Any = OmegaConf.to_container(node)
        return plain[key]


def shown(found: Any) -> str:
    """As it is written on the command line; of a dictionary its keys."""
    if isinstance(found, dict):
        return "{" + ", ".join(map(str, found)) + "}"
    return found if isinstance(found, str) else json.dumps(found)
