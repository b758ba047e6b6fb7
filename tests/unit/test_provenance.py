"""Which commit a record names."""

import subprocess
from pathlib import Path

from diffi2i.run.provenance import git_commit


def git(folder: Path, *words: str) -> str:
    person = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *person, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_commit_is_that_of_the_package_and_marked_where_its_files_have_changed(tmp_path: Path) -> None:
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    code, results = package / "__init__.py", tmp_path / "results.json"
    code.write_text("a = 1")
    results.write_text("[]")
    assert git_commit(package) is None
    git(tmp_path, "init", "-q")
    assert git_commit(package) is None, "a checkout that has the package not in it"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert git_commit(package) == commit
    results.write_text("[1]")
    assert git_commit(package) == commit
    code.write_text("a = 2")
    assert git_commit(package) == f"{commit}+"
    code.write_text("a = 1")
    (package / "new.py").touch()
    assert git_commit(package) == f"{commit}+"
