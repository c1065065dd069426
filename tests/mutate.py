"""Break one thing at a time in one file, and see whether the tests notice.

    python tests/mutate.py jsamp/solve/_multistep.py                 # ten mutants, the quick tests of the room
    python tests/mutate.py FILE --number 30 --seed 1 tests/solve/test_orders.py tests/law/test_solvers.py

Signs, factors, indices and comparisons change, in the code that computes: refusals, annotations and docstrings are left
alone. The mutated package is a copy; yours is not touched. A mutant that hangs, for three times as long as the tests
take, counts as killed; one that survives wants a value test, or a reason. Quick files first: they spare the others.
"""

import argparse
import ast
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree):
    """Yield the nodes that can change, skipping what only refuses, documents or annotates."""

    def walk(node):
        refuses = isinstance(node, ast.If) and all(isinstance(s, ast.Raise) for s in node.body)
        if refuses or isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].startswith("check_"):
            return
        swaps = type(getattr(node, "op", None)) in SWAPS and not isinstance(node, ast.AugAssign)
        compares = isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS
        negates = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if swaps or compares or negates or number:
            yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)

    yield from walk(tree)


def change(node):
    """Change a node in place and say how."""
    before = ast.unparse(node)
    if isinstance(node, ast.Constant):
        node.value = node.value + 1 if type(node.value) is int else 2 * node.value + (node.value == 0)
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd()
    else:
        node.op = SWAPS[type(node.op)]()
    return f"line {node.lineno}: {before[:60]}  ->  {ast.unparse(node)[:60]}"


def survives(copy, tests, limit=None):
    """Whether all tests pass with the package of the copy; those that failed for the mutant before go first."""
    path = os.pathsep.join([str(copy), str(ROOT / "tests"), str(ROOT / "tests" / "law")])
    options = ["-n", "0", "-x", "-q", "-m", "not slow", "--ff", "-o", f"cache_dir={copy / 'cache'}"]
    command = [sys.executable, "-P", "-m", "pytest", *options, *tests]
    try:
        run = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("tests", nargs="*", help="by default the tests of the room and its laws")
    parser.add_argument("--number", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_intermixed_args()
    name = args.file.resolve().relative_to(ROOT)
    room = name.parts[1]
    found = [path for path in (f"tests/{room}", f"tests/law/test_{room}.py") if (ROOT / path).exists()]
    tests, source = args.tests or found, (ROOT / name).read_text()
    number = len(list(places(ast.parse(source))))
    chosen = sorted(random.Random(args.seed).sample(range(number), min(args.number, number)))
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        shutil.copytree(ROOT / "jsamp", copy / "jsamp", ignore=shutil.ignore_patterns("__pycache__"))
        began = time.monotonic()
        if not survives(copy, tests):
            raise SystemExit("the tests fail without any change: mend them first")
        alive, limit = 0, 60 + 3 * (time.monotonic() - began)
        for place in chosen:
            tree = ast.parse(source)
            text = change(list(places(tree))[place])
            (copy / name).write_text(ast.unparse(tree))
            alive += (lives := survives(copy, tests, limit))
            print("SURVIVED" if lives else "killed  ", text, flush=True)
    print(f"{name}: {len(chosen) - alive} of {len(chosen)} killed ({number} places)")


if __name__ == "__main__":
    main()
