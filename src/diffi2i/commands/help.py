"""`diffi2i <command> --help`: the head of the command's configuration file, and its keys with types and defaults."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import takewhile
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.config.compose import completed, composition, conf_dir, nested_schema
from diffi2i.errors import UserError

WIDTH = 120


def text(schema: type, name: str, overrides: Sequence[str]) -> str:
    """What `--help` prints; the defaults are those under the overrides. Raises `UserError`: they do not compose."""
    lines = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#").removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    try:
        composed = composition(schema, name, completed(schema, name, overrides))
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
        node = None if OmegaConf.is_missing(composed, field.name) else composed._get_node(field.name)
        if (nested := nested_schema(hint)) and isinstance(node, DictConfig) and not node._is_none():
            yield from keys(nested, node, f"{key}.")
        elif isinstance(node, DictConfig) and not node._is_none() and "Any" in str(hint):
            for own in node:
                yield f"{key}.{own}", words(value(node, str(own))), shown(value(node, str(own)))
        else:
            yield key, typed(hint), shown(value(composed, field.name))


def typed(hint: Any) -> str:
    return re.sub(r"\bdiffi2i\.[\w.]*\.|typing\.", "", hint.__name__ if isinstance(hint, type) else str(hint))


def words(found: Any) -> str:
    return "" if found is None else type(found).__name__


def value(node: DictConfig, key: str) -> Any:
    """The value at a key, as it is written where it cannot be resolved without a run."""
    try:
        found = node[key]
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except OmegaConfBaseException:
        return OmegaConf.to_container(node)[key]


def shown(found: Any) -> str:
    """As it is written on the command line; of a dictionary its keys."""
    if isinstance(found, dict):
        return "{" + ", ".join(map(str, found)) + "}"
    return found if isinstance(found, str) else json.dumps(found)
