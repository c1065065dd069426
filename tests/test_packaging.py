"""What a user downloads: one version, a source archive whose tests can run, and files that agree with each other."""

import pathlib
import re
import subprocess
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


def metadata(root, monkeypatch, repository=None):
    """What hatchling makes of a checkout: of this one, or of another folder with its README and its hook."""
    core = pytest.importorskip("hatchling.metadata.core")
    manager = pytest.importorskip("hatchling.plugin.manager").PluginManager()
    monkeypatch.chdir(root)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    if repository:
        monkeypatch.setenv("GITHUB_REPOSITORY", repository)
    return core.ProjectMetadata(str(root), manager, tomllib.loads((root / "pyproject.toml").read_text())).core


@pytest.fixture
def unpacked(tmp_path):
    """A folder with what the metadata are made of, and no repository."""
    for name in ("README.md", "pyproject.toml", "LICENSE", "docs/package_metadata.py", "jsamp/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def test_an_index_shows_no_dead_link(unpacked, monkeypatch):
    """Without an address, relative pictures and links of the README are left out; code stays as it is."""
    readme, relative = (ROOT / "README.md").read_text(), re.compile(r"\]\((?!https?:|#)[^)\s]+\)")
    code = re.compile(r"^```.*?^```$", re.M | re.S)
    assert relative.search(code.sub("", readme)), "the README has relative links"
    found = metadata(unpacked, monkeypatch)
    assert found.readme_content_type == "text/markdown" and found.urls == {}
    assert not relative.search(code.sub("", found.readme)) and "![" not in found.readme
    assert code.findall(found.readme) == code.findall(readme)


@pytest.mark.parametrize(
    "remote",
    [
        "https://example.org/group/jsamp.git",
        "https://name:secret@example.org/group/jsamp",
        "ssh://git@example.org:22/group/jsamp.git",
        "git@example.org:group/jsamp.git",
    ],
)
def test_a_clone_knows_where_it_comes_from(unpacked, monkeypatch, remote):
    """Project URLs and absolute links of the README, of every form that a remote may have, without its secrets."""
    subprocess.run(["git", "init", "-q", str(unpacked)], check=True)
    subprocess.run(["git", "-C", str(unpacked), "remote", "add", "origin", remote], check=True)
    found = metadata(unpacked, monkeypatch)
    assert found.urls["Source"] == "https://example.org/group/jsamp"
    assert "](https://example.org/group/jsamp/raw/main/examples/digits.png)" in found.readme
    assert "](https://example.org/group/jsamp/blob/main/" in found.readme


def test_a_workflow_and_an_archive_know_their_address(unpacked, monkeypatch):
    """The workflow's repository wins; an archive keeps what it was built with; a folder is no address."""
    backend = pytest.importorskip("hatchling.build")
    built = metadata(unpacked, monkeypatch, repository="group/jsamp")
    assert built.urls["Source"] == "https://github.com/group/jsamp"
    name = backend.build_sdist(str(unpacked))
    with tarfile.open(unpacked / name) as archive:
        inside = archive.extractfile(f"{name.removesuffix('.tar.gz')}/PKG-INFO").read()
    (unpacked / "PKG-INFO").write_bytes(inside)
    kept = metadata(unpacked, monkeypatch)
    assert kept.urls == built.urls and kept.readme == built.readme
    (unpacked / "PKG-INFO").unlink()
    subprocess.run(["git", "init", "-q", str(unpacked)], check=True)
    subprocess.run(["git", "-C", str(unpacked), "remote", "add", "origin", "/folder/jsamp.git"], check=True)
    assert metadata(unpacked, monkeypatch).urls == {}


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
