"""Every command that a configuration's head, the README or an experiment shows composes and type-checks as it stands.

Nothing is run: commands are parsed and composed, with a folder in place of each folder they name, and a finished run in
place of each run.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffi2i import config
from diffi2i.build import build
from diffi2i.cli import names_row
from diffi2i.config import conf_dir
from diffi2i.schema import BenchConfig, Config, DataConfig, EvalConfig, PredictConfig, ScoreConfig
from diffi2i.tables import command as tables
from diffi2i.tables import experiment
from diffi2i.tables.plan import row_run

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"(?:^|\s|`)(diffi2i (?:train|eval|predict|score|bench|data|table|report)\b.*)")
SCHEMAS: dict[str, type[Any]] = {
    "eval": EvalConfig,
    "predict": PredictConfig,
    "bench": BenchConfig,
    "score": ScoreConfig,
    "train": Config,
}
TASKS = ("sisr", "realsr", "deblur", "inpainting", "segmentation", "depth")


def heads(text: str) -> list[str]:
    """The lines that are comments, without their `#` but with their indent."""
    return [line[1:] for line in text.splitlines() if line.startswith("#")]


def joined(lines: list[str]) -> list[str]:
    """A command goes on in the next line where that is deeper than the command, and holds a setting."""
    found: list[str] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        match = COMMAND.search(line)
        if match:
            found.append(match.group(1))
            own = indent
        elif found and indent > own and line.strip() and all("=" in word for word in line.split()):
            found[-1] += " " + line.strip()
        else:
            own = 10**6
    return found


def cleaned(command: str) -> list[str]:
    """The words of a command; it ends where a remark or a sentence begins."""
    command = re.sub(r"\s\w+=\.\.\.", "", command.replace("pred=... target=...", "pred=<folder> target=<folder>"))
    command = re.split(r"`|\s{3,}|\s#\s|\.\.\.|;|\s\[", command)[0].replace("<image or folder>", "<folder>")
    words = shlex.split(re.sub(r"<[^>]*>", lambda match: match.group().replace(" ", "-"), command))
    kept = words[:2]
    for word in words[2:]:
        if not ("=" in word or word.startswith("-") or kept[1] in ("table", "data")):
            break  # "two GPUs of one machine"
        kept.append(word)
    return kept


def commands_of(file: Path) -> Iterator[tuple[str, list[str]]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        lines = re.findall(r"^ {4}(.*)$", text, re.MULTILINE) + re.findall(r"`(diffi2i [^`\n]*=[^`\n]*)`", text)
    else:
        lines = heads(text)
    for command in joined(lines):
        yield file.relative_to(ROOT).as_posix(), cleaned(command)
        if file.parent.name == "task" and "budget=paper" not in command and "method=diffi2i_s2" in command:
            # "Paper scale (...): budget=paper ..." is what to add to the commands above it.
            for rest in paper_settings(text):
                yield file.relative_to(ROOT).as_posix(), [*cleaned(command)[:3], *rest]


def paper_settings(text: str) -> list[list[str]]:
    lines = heads(text)
    for number, line in enumerate(lines):
        if "Paper scale (" in line:
            words = line.partition("):")[2].split()
            for more in lines[number + 1 :]:
                if not more.split() or not all("=" in word for word in more.split()):
                    break
                words += more.split()
            return [words]
    return []


FILES = sorted(
    file
    for file in [*conf_dir().rglob("*.yaml"), *experiment.experiments_dir().rglob("*.yaml"), ROOT / "README.md"]
    if "results" not in file.parts
)
COMMANDS = [found for file in FILES for found in commands_of(file)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to find anything in."""
    folder = tmp_path_factory.mktemp("anything")
    (folder / "anything.png").touch()
    return folder


def made_real(word: str, folder: Path) -> str:
    """The word with a folder in place of what the reader puts in."""
    key, equals, value = word.partition("=")
    if key.lstrip("+") in ("root", "run", "input", "output", "pred", "target", "mask", "run_dir", "method.init") or (
        key.startswith("roots.") or value.startswith(("runs/", "my/"))
    ):
        return f"{key}{equals}{folder}"
    return word.replace("<task>", "sisr").replace("<name>", "a").replace("<dir>", str(folder))


def compose(words: list[str], folder: Path) -> None:
    name, arguments = words[1], [made_real(word, folder) for word in words[2:]]
    if name == "report" or (name == "table" and not any(experiment_named(word) for word in arguments)):
        return  # report has no settings but a scale; `table runs/a runs/b` draws records
    if name == "table":
        request = tables.parse(arguments)
        for found in request.experiments:
            tables.cells_of(found, request)
        return
    if name == "data":
        config.load(DataConfig, name, arguments[1:])
        return
    flags = [word for word in arguments if word.startswith("-")]
    overrides = [word for word in arguments if word not in flags and "=" in word]
    # Hydra's own groups configure the sweep, not the run: test_launchers.py.
    overrides = [word for word in overrides if not word.startswith("hydra")]
    if "method=diffi2i_s2" in overrides and not any(word.startswith("method.init=") for word in overrides):
        overrides.append(f"method.init={folder}")
    for single in config.sweep(overrides):
        if names_row(single):
            row_run(single)
        else:
            config.draft(SCHEMAS[name], name, single)


def experiment_named(word: str) -> bool:
    return word in (*experiment.names(), "all")


@pytest.mark.parametrize(("file", "words"), COMMANDS, ids=[f"{file}: {' '.join(words)}" for file, words in COMMANDS])
def test_every_command_shown_composes(
    file: str, words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    compose(words, runs)


# Overrides that a head offers to add to a command above it: `key={...}`, `+key={...}`, `key=[...]`.
OFFERED = [
    ("conf/task/realsr.yaml", "train", ["task=realsr"], r"[+\w.]+=\{_target_: diffi2i\.data\.realesrgan\.Order.*\}"),
    ("conf/eval.yaml", "eval", ["run=a"], r"\+degrade=\{.*\}"),
]


@pytest.mark.parametrize(("file", "name", "before", "pattern"), OFFERED, ids=[offer[0] for offer in OFFERED])
def test_every_override_offered_composes(file: str, name: str, before: list[str], pattern: str) -> None:
    found = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"))
    assert len(found) == 1
    node = config.draft(SCHEMAS[name], name, [*before, *found])
    build(getattr(node, "task", node).degrade, file)


def test_commands_are_found() -> None:
    """The search has not gone blind: each kind of file shows some."""
    shown = {file for file, _ in COMMANDS}
    assert "README.md" in shown
    assert {f"conf/task/{name}.yaml" for name in TASKS} <= shown
    assert {f"experiments/{name}.yaml" for name in experiment.names()} <= shown
    assert len([file for file in shown if file.startswith("conf/dataset/")]) > 20
    assert sum("budget=paper" in words for _, words in COMMANDS) >= 20
