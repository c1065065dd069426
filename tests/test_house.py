"""The rules of the house, checked on every file: floors, length, documentation, registries, what an import costs."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import jsamp

PACKAGE = pathlib.Path(jsamp.__file__).parent
TESTS = pathlib.Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py") if not p.parent.name.startswith("_"))

# Which rooms each room may import, beside itself.
GROUND = {"_core"}
BELOW_DENOISE = GROUND | {"noise", "select", "estimate"}
BELOW_SOLVE = BELOW_DENOISE | {"denoise"}
BELOW_LOSS = BELOW_SOLVE | {"solve", "steer", "mcmc", "tokens"}
FLOORS = {
    "_core": set(),
    "noise": GROUND,
    "select": GROUND,
    "estimate": GROUND | {"noise", "select"},
    "denoise": BELOW_DENOISE,
    "solve": BELOW_SOLVE,
    "steer": BELOW_SOLVE | {"solve"},
    "mcmc": BELOW_SOLVE,
    "tokens": BELOW_DENOISE,
    "loss": BELOW_LOSS,
    "fit": BELOW_LOSS | {"loss"},
    "plot": BELOW_LOSS | {"loss", "fit"},
}
EXTRAS = {
    "flax", "numpyro", "scipy", "sklearn", "matplotlib", "blackjax", "arviz", "tqdm", "optax", "torch", "pandas",
    "chex", "diffusers", "xarray", "PIL", "equinox",
}  # fmt: skip


def _room(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def _imports(path):
    """Dotted names of all that a file imports, at any depth, with the line of each."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ("jsamp", *path.relative_to(PACKAGE).parts[:-1])
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            if module == "jsamp":
                yield from ((f"jsamp.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def _names(room):
    module = importlib.import_module(f"jsamp.{room}")
    assert hasattr(module, "__all__"), f"jsamp.{room} has no __all__"
    return list(module.__all__)


def test_every_room_has_a_floor():
    assert set(ROOMS) <= set(FLOORS)
    for room, below in FLOORS.items():
        assert room not in below
        assert all(FLOORS[other] < below | {other} for other in below), f"floors of {room} are not closed downwards"
    assert "solve" not in FLOORS["mcmc"]
    assert "mcmc" not in FLOORS["solve"]


def test_imports_go_down():
    wrong = []
    for path in FILES:
        room = _room(path)
        if not room:
            continue
        for name, line in _imports(path):
            parts = name.split(".")
            if parts[0] != "jsamp":
                continue
            target = parts[1] if len(parts) > 1 else ""
            if target != room and target not in FLOORS[room]:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_third_parties_at_module_level_are_jax_and_numpy():
    allowed = set(sys.stdlib_module_names) | {"jax", "numpy", "jsamp"}
    wrong = []
    for path in FILES:
        own = allowed | ({"optax"} if _room(path) in ("fit", "loss") else set())
        # Tests inside a function do not run at import: only the statements of the module itself count.
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module or ""]
            else:
                continue
            wrong += [f"{path.relative_to(PACKAGE)}: {name}" for name in found if name.split(".")[0] not in own]
    assert not wrong, "\n".join(wrong)


def test_files_are_at_most_400_lines():
    long = {str(p.relative_to(PACKAGE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"take these apart: {long}"


def test_files_are_private_and_rooms_public():
    for path in FILES:
        assert path.name.startswith("_"), f"{path.relative_to(PACKAGE)}: files are private, name it _{path.name}"
    for room in ROOMS:
        module, _ = importlib.import_module(f"jsamp.{room}"), _names(room)
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        assert not missing, f"jsamp.{room}.__all__ names what is not there: {missing}"
        assert len(set(module.__all__)) == len(module.__all__)
        files = {p.stem for p in (PACKAGE / room).glob("*.py")}
        extra = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and name not in module.__all__ and name not in files
            if not inspect.ismodule(value)
        ]
        assert not extra, f"jsamp.{room} shows names that are not in __all__: {extra}"
    missing = [name for name in jsamp.__all__ if not hasattr(jsamp, name)]
    assert not missing


def _is_record(thing):
    """Whether this is a NamedTuple or a protocol's data: made by functions, which carry the example."""
    return inspect.isclass(thing) and issubclass(thing, tuple) and hasattr(thing, "_fields")


FREE = {"Hooks", "Plan", "picked"}  # a base, a table, a look into a record: nothing is computed


@pytest.mark.parametrize("room", ROOMS)
def test_public_objects_are_documented(room):
    module = importlib.import_module(f"jsamp.{room}")
    wrong = []
    for name in _names(room):
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            wrong.append(f"{name}: is neither a class nor a function")
            continue
        text = inspect.getdoc(thing) or ""
        if len(text.splitlines()) < 3 or not text.splitlines()[0].rstrip().endswith((".", ":")):
            wrong.append(f"{name}: wants a docstring whose first line is a sentence")
        if not _is_record(thing) and not ("Example:" in text and ">>>" in text):
            wrong.append(f"{name}: no Example with a doctest")
        if not (_is_record(thing) or _is_protocol(thing) or name in FREE) and "\nCost:\n" not in text:
            wrong.append(f"{name}: no Cost")
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            if signature.parameters and "Args:" not in text:
                wrong.append(f"{name}: no Args")
            if signature.return_annotation not in (None, "None", inspect.Signature.empty) and "Returns:" not in text:
                wrong.append(f"{name}: no Returns")
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for member, value in members:
            inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            body = inspect.isfunction(inner) or isinstance(inner, property)
            if body and not member.startswith("_") and not inspect.getdoc(inner) and not _is_protocol(thing):
                wrong.append(f"{name}.{member}: no docstring")
    assert not wrong, "\n".join(wrong)


def _is_protocol(thing):
    return getattr(thing, "_is_protocol", False)


def _examples():
    """Name every doctest of the package by its place below it: "room.object" for what a room makes public."""
    found = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__):
            name = ".".join(part for part in test.name.split(".")[1:] if part != parts[-1])
            found[name] = test
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_docstring_runs(name):
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(EXAMPLES[name], out=report.append).failed, "".join(report)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_example_is_run(room):
    """A function that hides its docstring from doctest (an object that calls, say) would be passed over."""
    module = importlib.import_module(f"jsamp.{room}")
    run = {(example.filename, example.docstring) for example in EXAMPLES.values()}
    finder = doctest.DocTestFinder(recurse=False)
    for name in _names(room):
        thing = getattr(module, name)
        for test in finder.find(thing, name, module=inspect.getmodule(thing)):
            assert not test.examples or (test.filename, test.docstring) in run, name


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_stands_in_its_law_suite(room):
    path = TESTS / "law" / f"test_{room}.py"
    assert path.exists(), f"room {room} has no law suite {path.relative_to(TESTS.parent)}"
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    suite = sys.modules.get(path.stem)
    if suite is None or pathlib.Path(suite.__file__ or "") != path:
        spec = importlib.util.spec_from_file_location(f"_registry_of_{room}", path)
        suite = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = suite
        spec.loader.exec_module(suite)
    missing = set(_names(room)) - set(suite.REGISTRY)
    stale = set(suite.REGISTRY) - set(_names(room))
    assert not missing, f"{path.name}: REGISTRY lacks {sorted(missing)}"
    assert not stale, f"{path.name}: REGISTRY has {sorted(stale)}, which the room does not"


_IMPORT = """
import json, sys, time
import jax
before, start = set(sys.modules), time.process_time()
import jsamp
spent = time.process_time() - start
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"seconds": spent, "new": new, "backend": bool(jax._src.xla_bridge._backends)}))
"""


def test_import_is_light():
    writes = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2):  # the first one may have to compile the package
        run = subprocess.run(
            [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True, cwd=PACKAGE.parent,
            timeout=120, env=writes,
        )  # fmt: skip
        report = json.loads(run.stdout)
    heavy = EXTRAS & set(report["new"])
    assert not heavy, f"import jsamp pulls in {sorted(heavy)}"
    assert not report["backend"], "import jsamp starts a JAX backend: some array is made at import time"
    # It takes 0.3 to 0.6 s of processor time, half of it to make the dataclasses; the gate is for a heavy import.
    assert report["seconds"] < 1.5, f"import jsamp takes {report['seconds']:.2f} s beyond jax"


def test_random_choices_are_drawn_in_one_place():
    names = {"choice", "categorical", "gumbel"}
    wrong = []
    for path in FILES:
        if path.relative_to(PACKAGE).as_posix() == "select/_draw.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in names:
                base = ast.unparse(node.value)
                if base.endswith("random") or base in ("jr", "jrandom"):
                    wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {base}.{node.attr}")
            elif isinstance(node, ast.ImportFrom) and node.module == "jax.random":
                wrong += [f"{path.relative_to(PACKAGE)}:{node.lineno}" for a in node.names if a.name in names]
    assert not wrong, f"draw through jsamp.select instead: {wrong}"


def test_nothing_unfinished():
    marks = re.compile(
        r"\b(TODO|FIXME|XXX|HACK|WIP)\b|NotImplementedError|\b(placeholder version|simplified version)\b"
    )
    wrong = [
        f"{path.relative_to(PACKAGE)}:{i}: {line.strip()}"
        for path in FILES
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_stub_bodies():
    """A body of `...` or `pass` alone belongs to protocols only."""
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef | ast.Module):
                continue
            bases = [ast.unparse(b) for b in getattr(node, "bases", [])]
            if any(b.split("[")[0].endswith("Protocol") for b in bases):
                continue
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and "overload" not in map(ast.unparse, item.decorator_list):
                    body = [s for s in item.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                    if not body or all(isinstance(s, ast.Pass) for s in body):
                        wrong.append(f"{path.relative_to(PACKAGE)}:{item.lineno} {item.name}")
    assert not wrong, wrong


def test_no_absolute_paths():
    # Folders of one machine, in the package and beside it.
    paths = re.compile(r"(?<![\w./:])/(?:work|home|root|Users|tmp|mnt|opt|data)/\w")
    folders = [PACKAGE, *(PACKAGE.parent / name for name in ("examples", "benchmarks", "tests"))]
    wrong = [
        f"{path.relative_to(PACKAGE.parent)}:{i}: {line.strip()}"
        for folder in folders
        for path in folder.rglob("*.py")
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if paths.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_test_files_have_names_of_their_own():
    names: dict[str, pathlib.Path] = {}
    for path in sorted(TESTS.rglob("*.py")):
        assert path.name not in names or path.name == "conftest.py", f"{path} and {names[path.name]} share a name"
        names[path.name] = path


@pytest.mark.parametrize("room", ROOMS)
def test_objects_are_trees(room):
    """Classes of a room are NamedTuples, protocols, mixins or frozen `pytree` dataclasses: never a third kind."""
    for name in _names(room):
        thing = getattr(importlib.import_module(f"jsamp.{room}"), name)
        if not inspect.isclass(thing) or _is_record(thing) or _is_protocol(thing):
            continue
        fields = getattr(thing, "__dataclass_fields__", None)
        if fields is None:
            # A mixin: no state of its own.
            assert "__init__" not in vars(thing), f"{name} is a class with state that is not a tree: use @pytree"
            continue
        assert thing.__dataclass_params__.frozen, f"{name} must be frozen"
        empty = object.__new__(thing)
        for field in fields:
            object.__setattr__(empty, field, np.float32(1))
        leaves, structure = jax.tree.flatten(empty)
        again = jax.tree.unflatten(structure, leaves)
        assert type(again) is thing, f"{name} is not registered as a tree"
        assert len(leaves) == sum(not f.metadata.get("static") for f in fields.values()), name
