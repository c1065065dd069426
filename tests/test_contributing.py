"""The diffs of CONTRIBUTING.md apply, and their checks pass with public names alone."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^## (Your first \w+)\n(.*?)(?=^## )", TEXT, re.M | re.S))


def files_of(section):
    """Yield (name, lines before, lines after) of each file in the section's diff."""
    for diff in re.findall(r"```diff\n(.*?)```", SECTIONS[section], re.S):
        for part in re.split(r"^--- ", diff, flags=re.M)[1:]:
            _, target, *body = part.splitlines()
            hunks = re.split(r"^@@.*?@@.*$", "\n".join(body), flags=re.M)[1:]
            for hunk in hunks:
                lines = [line for line in hunk.splitlines() if line]
                old, new = ([line[1:] for line in lines if line[0] != sign] for sign in "+-")
                yield target.removeprefix("+++ b/"), old, new


def apply(section, folder):
    """Write the new files, and the changed ones of the repository, into a folder; a hunk must fit in one place."""
    for name, old, new in files_of(section):
        path = folder / name
        if not old:
            assert not path.exists() and not (ROOT / name).exists(), f"{name} exists"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(new) + "\n")
            continue
        before = (path if path.exists() else ROOT / name).read_text()
        assert before.count("\n".join(old)) == 1, f"{name}: the hunk does not fit"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before.replace("\n".join(old), "\n".join(new)))


def test_the_headers_of_the_hunks_count_their_lines():
    for section in SECTIONS:
        headers = re.findall(r"^@@ -0,0 \+1,(\d+) @@$", SECTIONS[section], re.M)
        lengths = [len(new) for _, old, new in files_of(section) if not old]
        assert [int(n) for n in headers] == lengths, section


@pytest.mark.parametrize("section", SECTIONS)
def test_only_public_names_are_used(section):
    code = "\n".join("\n".join(new) for _, _, new in files_of(section))
    assert not re.search(r"jsamp\._|js\._|js\.\w+\._|from jsamp\.", code)


def test_the_checks_pass(tmp_path):
    """The commands that the sections name, in one run, in a clone with all diffs applied."""
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "jsamp").symlink_to(ROOT / "jsamp")
    checks = []
    for section, text in SECTIONS.items():
        apply(section, tmp_path)
        (check,) = re.findall(r"^```sh\npython -m pytest -n 0 (\S+)\n```", text, re.M)
        checks.append(check)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *checks]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
