"""What a user downloads: one version, a source archive whose tests can run, and files that agree with each other."""

import pathlib
import re
import tarfile
import tomllib

import pytest

import jsamp

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M).group(1) == jsamp.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in changes or f"## {jsamp.__version__}" in changes


def test_the_source_archive_holds_what_its_tests_need(tmp_path, monkeypatch):
    backend = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / backend.build_sdist(str(tmp_path))) as archive:
        found = {pathlib.PurePosixPath(*pathlib.PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    names = {str(path) for path in found}
    for folder in ("jsamp", "tests", "examples", "benchmarks", "docs"):
        missing = [
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".npz", ".md", ".png", ".toml", ".yml"}
            and str(path.relative_to(ROOT)) not in names
        ]
        assert not missing, f"the source archive lacks {missing[:5]}"
    wanted = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "pyproject.toml", ".ci/run"}
    assert wanted <= names, wanted - names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_an_index_shows_no_dead_link(monkeypatch):
    """Relative pictures and links of the README become absolute, or are left out; code stays as it is."""
    core = pytest.importorskip("hatchling.metadata.core")
    manager = pytest.importorskip("hatchling.plugin.manager").PluginManager()
    monkeypatch.chdir(ROOT)
    project = core.ProjectMetadata(str(ROOT), manager, tomllib.loads((ROOT / "pyproject.toml").read_text()))
    readme, relative = (ROOT / "README.md").read_text(), re.compile(r"\]\((?!https?:|#)[^)\s]+\)")
    code = re.compile(r"^```.*?^```$", re.M | re.S)
    assert relative.search(code.sub("", readme)), "the README has relative links"
    shown = project.core.readme
    assert project.core.readme_content_type == "text/markdown"
    assert not relative.search(code.sub("", shown)) and "![" not in shown
    assert code.findall(shown) == code.findall(readme)
    if (ROOT / "PKG-INFO").exists():  # of an archive, whose metadata are those written when it was built
        return
    again = core.ProjectMetadata(str(ROOT), manager, tomllib.loads((ROOT / "pyproject.toml").read_text()))
    again.config["project"]["urls"] = {"Source": "https://example.org/jsamp/"}
    assert "](https://example.org/jsamp/raw/main/examples/digits.png)" in again.core.readme
    assert "](https://example.org/jsamp/blob/main/" in again.core.readme


def test_the_oldest_jax_is_the_one_that_is_tested():
    floor = next(one for one in PROJECT["dependencies"] if one.startswith("jax"))
    tested = re.search(r"^jax==(.*)$", (ROOT / ".ci" / "oldest.txt").read_text(), re.M).group(1)
    assert tested.startswith(floor.removeprefix("jax>=") + ".")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert all(
        f"jax: {which}" in workflow and (ROOT / ".ci" / f"{which}.txt").exists() for which in ("oldest", "newest")
    )


def test_every_extra_that_tests_import_is_in_the_test_extra():
    extras = PROJECT["optional-dependencies"]
    own = {re.split(r"[<>=\[]", one)[0] for one in extras["test"]}
    for one in re.findall(r"\[(.*?)\]", extras["test"][0])[0].split(","):
        own |= {re.split(r"[<>=\[]", name)[0] for name in extras[one]}
    assert {
        "equinox",
        "flax",
        "optax",
        "numpyro",
        "arviz",
        "blackjax",
        "matplotlib",
        "scikit-learn",
        "hypothesis",
    } <= own


def test_the_workflow_builds_and_tests_what_is_shipped_on_every_python_declared():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    declared = sorted(one.rsplit(" ", 1)[1] for one in PROJECT["classifiers"] if "Python :: 3." in one)
    package = workflow[workflow.index("  package:") : workflow.index("  docs:")]
    assert re.findall(r"python: \[(.*)\]", package) == [", ".join(f'"{version}"' for version in declared)]
    assert PROJECT["requires-python"] == f">={declared[0]}"
    script = ROOT / ".ci" / "package"
    assert "run: .ci/package" in package
    assert script.stat().st_mode & 0o100, ".ci/package must be executable"
    assert "tests/test_docs.py" in workflow
