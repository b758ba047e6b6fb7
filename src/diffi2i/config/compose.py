"""From Hydra overrides to a checked configuration.

Hydra composes `conf/`; `load` turns the composition into the dataclasses of `schema` and `commands`, or raises
`UserError` with one line that says what to write instead. Nothing heavy is imported here.
"""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.config.checks import check, check_budget, check_dataset, check_filled, check_targets
from diffi2i.config.commands import ScoreConfig
from diffi2i.config.schema import Config, ModelConfig
from diffi2i.config.trust import check_row, leaves
from diffi2i.errors import UserError, printable

T = TypeVar("T")

QUOTES = ("'", '"')
PATHS = re.compile(
    r"run|run_dir|release|root|roots\..+|imports\..+|input|output|pred|target|mask|name|method\.init|"
    r"dataset\.source\.(root|val_root|(train|val|input|target)_dir|(input|target)_name)"
)
"""Keys whose value is taken as it is written, since it names a file or folder, which may have any name."""
# One string in quotes.
QUOTED = re.compile(r"'([^'\\]|\\.)*'|\"([^\"\\]|\\.)*\"")
SWEPT = re.compile(r"(choice|glob|range|sort|shuffle|tag|interval)\(.*\)")
BY_BUDGET = ("models", "budgets")
"""Of a method's node: which model and which options it has at which budget; gone once that is chosen."""
METHOD_KEYS = ("_target_", "name", "init", "like_init", "int8", "role", *BY_BUDGET)
"""What a method's node has; the rest are options of its own. With `like_init` it stands for the method of the run that
it starts from; with `int8` its weights are as of `models.int8`."""


def conf_dir() -> Path:
    """The folder of Hydra configurations: `conf/` of the checkout, or its copy inside the installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "train.yaml").is_file() else package / "conf"


def load(schema: type[T], name: str, overrides: Sequence[str]) -> T:
    """Composes `conf/<name>.yaml` with Hydra `overrides` into a checked `schema`.

    What a method's own options may be, which run it may start from, and what its networks may be, its class and theirs
    check: `methods.build.check`.

    Raises:
        UserError: one line, for anything that cannot be: syntax, unknown key, wrong type, impossible values.
    """
    return typed(schema, *completed(schema, name, overrides))


def completed(schema: type, name: str, overrides: Sequence[str]) -> tuple[list[str], DictConfig]:
    """The overrides as Hydra reads them, after the model and the method's options that the budget brings, composed.

    Raises:
        UserError: see `load`.
    """
    several = get_origin(get_type_hints(schema).get("run")) is list
    given = [
        quoted_runs(text) if several and text.startswith("run=") else quoted_settings(quoted_path(text))
        for text in overrides
    ]
    check_rows(given)
    named = any(override.startswith("model=") for override in given)
    # Without settings of the model, which may be those of a model that is still to be found.
    others = [text for text in given if named or not text.lstrip("+~").startswith("model.")]
    whole = True
    try:
        composed = composition(schema, name, given)
    except UserError:
        if others == given:
            raise
        whole, composed = False, composition(schema, name, others)
    if not issubclass(schema, Config):
        return given, composed
    with in_one_line(schema):
        model = None if named else usual_model(composed)
        usual = [*usual_options(composed), *([f"model={model}"] if model else [])]
    if usual == [f"model={model}"] and others == given and (node := in_place_of(composed.model, str(model))):
        composed.model = node
        return [*usual, *given], composed
    if usual or not whole:
        composed = composition(schema, name, [*usual, *given])
    return [*usual, *given], composed


def check_rows(overrides: Sequence[str]) -> None:
    """The rows that the overrides name hold nothing that could do harm; see `trust`."""
    if not any("experiment" in text for text in overrides):
        return  # Hydra's parser takes a tenth of what composing does
    with in_one_line(Config):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    values: dict[str, Any] = {str(override.key_or_group): override.value() for override in parsed}
    rows = values.get("experiment")
    for row in rows if isinstance(rows, list) else [rows]:
        check_row(str(row).removesuffix(".yaml"), values.get("trust", []), conf_dir())


def in_place_of(model: DictConfig, name: str) -> DictConfig | None:
    """The node of another model, where nothing but its own file has shaped this one.

    It is what composing again would come to, which takes long.
    """
    files = [conf_dir() / "model" / f"{each}.yaml" for each in (model.name, name)]
    if not all(file.is_file() for file in files):
        return None
    with in_one_line(Config):
        own, other = (OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(file)) for file in files)
    return other if same(model, own) else None  # type: ignore[return-value]


def same(one: Any, other: Any) -> bool:
    """Whether two nodes say the same, references unresolved."""
    plain = [OmegaConf.to_container(node, resolve=False) for node in (one, other)]
    return bool(plain[0] == plain[1])


def usual_model(composed: DictConfig) -> str | None:
    """The model of the method at this budget, by task or for all, else the budget's own; None for the task's.

    `method.models` has `default`, and of a budget one model or one for each task.
    """
    method: Any = OmegaConf.to_container(composed.method, resolve=False)
    models = mapping(method.get("models"), "method.models")
    own = models.get(composed.budget)
    own = own.get(composed.task.name) if isinstance(own, dict) else own
    budgets: Any = OmegaConf.to_container(composed.task.budgets, resolve=False)
    found = own or models.get("default") or budgets.get(composed.budget, {}).get("model")
    if not isinstance(found, str | None):
        raise UserError(f"method.models names {found}: write the name of a model")
    return found


def usual_options(composed: DictConfig) -> list[str]:
    """What `method.budgets` says of this budget, as overrides."""
    method: Any = OmegaConf.to_container(composed.method, resolve=False)
    budgets = mapping(method.get("budgets"), "method.budgets")
    options = mapping(budgets.get(composed.budget), f"method.budgets.{composed.budget}")
    return [f"method.{key}={value}" for key, value in options.items()]


def mapping(node: Any, key: str) -> dict[str, Any]:
    """The node, empty where there is none. Raises `UserError`: it is no mapping."""
    if not isinstance(node, dict | None):
        raise UserError(f"{key}={node} must be a mapping: leave it out")
    return node or {}


def quoted(text: str) -> str:
    """The text as a string that Hydra's grammar takes literally, whatever characters a path has."""
    return QuotedString(text, Quote.single).with_quotes()


def quoted_path(override: str, swept: bool = False) -> str:
    """`input=photos (1)` with quotes around the value, which Hydra's grammar would else read or refuse; see `PATHS`.

    null stays, and what has quotes unless a file is called that. Where it may be `swept`, each value of `root=a,b` gets
    its own.

    Raises:
        UserError: a value with signs that cannot be printed.
    """
    key, _, value = override.partition("=")
    if not value or not PATHS.fullmatch(key.lstrip("+")):
        return override
    if not printable(value):
        raise UserError(f"{key}={value!a} has signs that cannot be printed: rename the file or folder")
    if swept and SWEPT.fullmatch(value):
        return override
    values = entries(value) if swept else [value]
    kept = [text == "null" or (QUOTED.fullmatch(text) and not Path(text).exists()) for text in values]
    return f"{key}={','.join(text if keep else quoted(text) for text, keep in zip(values, kept, strict=True))}"


def quoted_runs(override: str) -> str:
    """`run=a` and `run=[a,b]` as a list of paths that are taken as they are written; see `quoted_path`."""
    value = override.removeprefix("run=")
    listed = value.startswith("[") and value.endswith("]") and not Path(value).exists()
    runs = quoted_path(f"run={value[1:-1]}", swept=True) if listed else quoted_path(override)
    return f"run=[{runs.removeprefix('run=')}]"


def quoted_settings(override: str) -> str:
    """`set=[a=1,b=[2,3]]` with quotes around each entry: Hydra's grammar has no `=` inside a list. `cases` likewise.

    `trust=mynet` as the list that it is, and `masks=narrow`.
    """
    key, _, value = override.partition("=")
    if key in ("trust", "masks") and not value.startswith("["):
        return f"{key}=[{value}]"
    if key not in ("set", "cases") or not override.startswith(f"{key}=[") or not override.endswith("]"):
        return override
    bare = [entry for entry in entries(override.removeprefix(f"{key}=[")[:-1]) if entry]
    return f"{key}=[{','.join(entry if entry[0] in QUOTES else quoted(entry) for entry in bare)}]"


def entries(text: str) -> list[str]:
    """What stands between its commas, but for those inside quotes and brackets."""
    found, depth, quote = [""], 0, ""
    for letter in text:
        if quote or letter in QUOTES:
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += letter
    return [entry.strip() for entry in found]


def composition(schema: type, name: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of `conf/<name>.yaml` and the overrides. Raises `UserError` in one line."""
    register(schema, name)
    with in_one_line(schema), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            return compose(name, overrides=list(overrides))
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            # What Hydra and OmegaConf let slip about nodes that do not fit together.
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"these settings do not fit together ({why}): {' '.join(overrides)}") from error


def register(schema: type, name: str) -> None:
    """Makes the dataclass the base of its root file, so that every key exists and has its type."""
    ConfigStore.instance().store(f"{name}_schema", schema)


def typed(schema: type[T], overrides: Sequence[str], composed: DictConfig) -> T:
    """Turns what the overrides have composed into a checked `schema`; see `load`."""
    with in_one_line(schema):
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        if issubclass(schema, Config):
            check_values(plain)
            check_targets(plain)
            check_budget(plain)
        if issubclass(schema, (Config, ScoreConfig)):
            # Before `${dataset.target.classes}` is looked up in a dataset without.
            check_dataset(plain["task"], plain["dataset"])
        if issubclass(schema, ScoreConfig):
            # These refer to keys of training.
            plain["task"] |= {"optimizer": {}, "scenes": {}}
            plain["dataset"] = plain["dataset"] and plain["dataset"] | {"source": {}}
        if not issubclass(schema, Config) or any(text.startswith("+") for text in overrides):
            # Anew from a plain container, since a key added with `+` would slip through between typed nodes.
            composed = OmegaConf.merge(OmegaConf.structured(schema), plain)  # type: ignore[assignment]
        config: T = OmegaConf.to_object(composed)  # type: ignore[assignment]
    check_filled(asdict(config))  # type: ignore[call-overload]
    if isinstance(config, Config):
        for key in BY_BUDGET:
            config.method.pop(key, None)
        check(config)
    return config


def check_values(plain: Any) -> None:
    """Every number is one, and every value is there. Raises `UserError` with the first key that is not."""
    for key, name, value in leaves(plain):
        place = f"{key}.{name}".strip(".")
        if value == MISSING:
            raise UserError(f"{place} is missing: write a value")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{place}={value}: write a finite number")


def typed_options(kind: type[T], config: Config) -> T:
    """A method's own options as its dataclass. Raises `UserError`: unknown key, wrong type, or what `kind` refuses."""
    own = {key: value for key, value in config.method.items() if key not in METHOD_KEYS}
    with in_one_line(Config):
        merged = OmegaConf.merge({"method": OmegaConf.structured(kind)}, {"method": own})
        options: T = OmegaConf.to_object(merged)["method"]  # type: ignore[call-overload, index, assignment]
    return options


@contextmanager
def in_one_line(schema: type) -> Iterator[None]:
    """Turns errors of Hydra and OmegaConf about a configuration of `schema` into a `UserError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, schema)) from error


def explain(error: BaseException, schema: type) -> str:
    """One line for an error of Hydra or OmegaConf: the key, what is wrong, what to write."""
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write key=value (quote values with brackets or spaces for the shell)"
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
    lines = (str(error).strip() or str(error.__cause__) or type(error).__name__).splitlines()
    first = lines[0].rstrip(".")
    cause = str(error.__cause__ or "").splitlines()
    key = getattr(error, "full_key", None) or ""
    if match := re.search(r"Could not override '([^']+)'", first):
        return unknown_key(match.group(1), schema)
    if match := re.search(r"Key '([^']+)' (?:is )?not in", first):
        return unknown_key(key or match.group(1), schema)
    if match := re.search(r"Could not find '([^']+)'", first):
        group, _, choice = match.group(1).rpartition("/")
        options = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        if options:
            return f"{group}={choice} is unknown: write {group}= one of {', '.join(options)}"
    if "missing mandatory value" in first.lower():
        missing = key or first.split(":")[-1].strip()
        return f"{missing} is missing: write {missing}=<value>"
    if key:
        return f"{key}: {first[0].lower()}{first[1:]}"
    return f"{first} ({cause[0]})" if cause and cause[0] not in first else first


def unknown_key(key: str, schema: type) -> str:
    """The line for a key that no schema has, with the nearest one that exists."""
    if re.match(r"(train\.|task\.)?degrade\.", key):  # its keys are its class's arguments, which no schema knows
        return f"unknown key '{key}': to add it, write a plus sign before it, +{key.removesuffix('._target_')}=..."
    known = known_keys(schema)
    group = key.partition(".")[0]
    if group in ("method", "model", "dataset", "task"):
        options = {path.stem: keys_of_file(group, path) for path in sorted((conf_dir() / group).glob("*.yaml"))}
        having = [choice for choice, keys in options.items() if key in keys]
        if having and group == "method":
            return f"'{key}' is an option of method={' and '.join(having)}, not of this one: leave it out"
        known += [key for keys in options.values() for key in keys]
    namesakes = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75) or namesakes
    return f"unknown key '{key}'" + (f": did you mean '{near[0]}'?" if near else "")


def keys_of_file(group: str, file: Path) -> list[str]:
    """All dotted keys of a file of this group."""

    def walk(node: Any, prefix: str) -> list[str]:
        keys = []
        for name, child in node.items():
            keys += [f"{prefix}{name}", *(walk(child, f"{prefix}{name}.") if isinstance(child, dict) else [])]
        return keys

    return walk(OmegaConf.to_container(OmegaConf.load(file)), f"{group}.")


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """All dotted keys of a schema."""
    keys, hints = [], get_type_hints(schema)
    for field in fields(schema):
        keys.append(prefix + field.name)
        if nested := nested_schema(hints[field.name]):
            keys += known_keys(nested, f"{prefix}{field.name}.")
    return keys


def nested_schema(hint: Any) -> type | None:
    """The dataclass that a field of this type holds, or None."""
    kinds: Sequence[type] = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next((kind for kind in kinds if is_dataclass(kind)), None)
