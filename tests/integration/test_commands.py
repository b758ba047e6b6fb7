"""Every command that the head of a configuration, the README, a page or an experiment shows composes as it stands.

Nothing is run: commands are parsed and composed, with a folder in place of each folder they name, and a finished run in
place of each run. What several places show is composed once.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffi2i import cli
from diffi2i.commands import sweep
from diffi2i.config.build import build
from diffi2i.config.compose import conf_dir, load
from diffi2i.config.schema import Config
from diffi2i.run.rows import table_names
from tests.places import ROOT

COMMAND = re.compile(rf"(?:^|\s|`)(diffi2i (?:{'|'.join(cli.COMMANDS)})\b.*)")
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
        if not ("=" in word or word.startswith("-") or cli.COMMANDS[kept[1]].words or kept[-1] == "--cfg"):
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
            # "Paper's budget (...): budget=paper ..." is what to add to the commands above it.
            for rest in paper_settings(text):
                yield file.relative_to(ROOT).as_posix(), [*cleaned(command)[:3], *rest]


def paper_settings(text: str) -> list[list[str]]:
    lines = heads(text)
    for number, line in enumerate(lines):
        if "Paper's budget (" in line:
            words = line.partition("):")[2].split()
            for more in lines[number + 1 :]:
                if not more.split() or not all("=" in word for word in more.split()):
                    break
                words += more.split()
            return [words]
    return []


def made_real(word: str, folder: Path) -> str:
    """The word with a folder in place of what the reader puts in."""
    key, equals, value = word.partition("=")
    folders = ("root", "run", "input", "output", "pred", "target", "mask", "run_dir", "method.init")
    if not value.endswith(".html") and (
        key.lstrip("+") in folders or key.startswith("roots.") or value.startswith(("runs/", "my/"))
    ):
        return f"{key}{equals}{folder}"
    return re.sub(r"<[^>]*>", "a", word.replace("<task>", "sisr").replace("<dir>", str(folder)))


PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
FILES = sorted(
    file
    for file in [*conf_dir().rglob("*.yaml"), *(ROOT / "experiments").rglob("*.yaml"), *PAGES]
    if "results" not in file.parts
)
SHOWN = [found for file in FILES for found in commands_of(file)]
# One of those that differ in their folders alone.
COMMANDS = {
    tuple(made_real(word, Path("anywhere")) for word in words): (file, words) for file, words in reversed(SHOWN)
}.values()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to find anything in."""
    folder = tmp_path_factory.mktemp("anything")
    (folder / "anything.png").touch()
    return folder


def composed(words: list[str], folder: Path) -> list[object]:
    """The configurations that the command runs under, one unless it sweeps."""
    name, command = words[1], cli.COMMANDS[words[1]]
    flags, overrides = cli.parsed(command, [made_real(word, folder) for word in words[2:]])
    # Hydra's own groups configure the sweep, not the run: test_launchers.py.
    overrides = [word for word in overrides if not word.startswith("hydra")]
    runs = sweep.combinations(overrides) if "-m" in flags else [overrides]
    return [load(command.config, name, single) for single in runs]


@pytest.mark.parametrize(("file", "words"), COMMANDS, ids=[f"{file}: {' '.join(words)}" for file, words in COMMANDS])
def test_every_command_shown_composes(
    file: str, words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = composed(words, runs)
    assert found
    assert all(isinstance(config, cli.COMMANDS[words[1]].config) for config in found)


def test_the_degradation_that_a_head_offers_to_add_builds() -> None:
    text = (ROOT / "conf/task/realsr.yaml").read_text(encoding="utf-8")
    found = re.findall(r"[+\w.]+=\{_target_: diffi2i\.data\.realesrgan\.Order.*\}", text)
    assert len(found) == 1
    node = load(Config, "train", ["task=realsr", *found]).task.degrade
    assert node is not None
    build(node, "task.degrade")


def test_commands_are_found() -> None:
    """The search has not gone blind: each kind of file shows some."""
    shown = {file for file, _ in SHOWN}
    assert {"README.md", "docs/use.md", "docs/photos.md", "docs/results.md", "docs/troubleshooting.md"} <= shown
    for kind in ("task", "method"):
        assert {f"docs/{kind}s/{file.stem}.md" for file in (conf_dir() / kind).glob("*.yaml")} <= shown
    assert {f"conf/task/{name}.yaml" for name in TASKS} <= shown
    assert {f"conf/{name}.yaml" for name in cli.COMMANDS} <= shown
    assert {f"experiments/{name}/table.yaml" for name in table_names()} <= shown
    assert len([file for file in shown if file.startswith("conf/dataset/")]) > 20
    assert sum("budget=paper" in words for _, words in SHOWN) >= 10
