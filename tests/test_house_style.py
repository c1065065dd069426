"""The rules of the house that are about writing: protocol pages, length of functions, the one dialect of docstrings."""

import ast
import functools
import pathlib
import re

import pytest

import jsamp

PACKAGE = pathlib.Path(jsamp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What arrays, keys, functions and the objects of other libraries may have: no protocol of ours.
FOREIGN = {
    "dtype", "shape", "ndim", "size", "sharding", "vma", "aval", "mode", "manual_axis_type",  # arrays and their types
    "get_xlim", "update", "_fields", "_mmap", "MADV_DONTNEED", "O_DIRECTORY", "columns", "to_numpy", "toarray", "todense", "iloc", "tolist", "_asdict",  # optax, tuples, memmaps, frames
    "one_number",  # a mark of our own converters
    "acceptance_rate", "is_divergent", "num_integration_steps", "logdensity_grad",  # infos of blackjax
}  # fmt: skip

# Names of arguments, fields and results that have another name here (CONTRIBUTING.md lists the ones to take).
SYNONYMS = {
    "batch_size": "batch, block or chunk", "chunk_size": "chunk", "block_size": "block", "num_steps": "steps",
    "n_steps": "steps", "num_iterations": "iterations", "max_iter": "max_steps", "num_samples": "num", "n_samples": "num",
    "warmup": "warm", "num_restarts": "restarts", "rng_key": "key", "lr": "rate", "learning_rate": "rate",
    "tol": "tolerance", "log_density": "logdensity", "log_likelihood": "loglikelihood",
    "logprob": "log_prob",
}  # fmt: skip

# Rules that rooms do not meet yet: (rule, file) -> how many times.
PENDING: dict[tuple[str, str], int] = {}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def functions(path):
    """Yield (qualified name, node) of the functions of a file, methods and inner ones included."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{prefix}{child.name}"
                if isinstance(child, ast.FunctionDef):
                    yield inner, child
                yield from walk(child, inner + ".")
            else:
                yield from walk(child, prefix)

    yield from walk(tree_of(path), "")


def documented(path):
    """Yield (name, docstring) of the module, its classes and its functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def code_lines(path, node):
    """Count the lines of a function or file that hold code: no docstrings, comments or blank lines."""
    lines = path.read_text().splitlines()
    texts: set[int] = set()
    for inner in ast.walk(node):
        body = getattr(inner, "body", None)
        if isinstance(inner, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner) is not None:
            texts |= set(range(body[0].lineno, body[0].end_lineno + 1))
    # The signature is no code: a function with many options is not long for it.
    first = node.body[0].lineno if isinstance(node, ast.FunctionDef) else 1
    last = getattr(node, "end_lineno", len(lines))
    kept = [n for n in range(first, last + 1) if n not in texts and lines[n - 1].strip()]
    return sum(not lines[n - 1].lstrip().startswith("#") for n in kept)


def asked_names(path):
    """Yield (line, name) of every optional name asked for by getattr with a default or by hasattr."""
    for node in ast.walk(tree_of(path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1):
            continue
        asks = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
        if asks and isinstance(node.args[1], ast.Constant):
            yield node.lineno, str(node.args[1].value)


def optional_names(path):
    """Asked names that no protocol page of any room lists."""
    pages = {page: page.read_text() for page in PACKAGE.glob("*/_protocol.py")}
    for line, name in asked_names(path):
        listed = any(re.search(rf"\b{re.escape(name)}\b", text) for text in pages.values())
        if not (listed or name in FOREIGN or name.startswith("__")):
            yield f"{line}: {name}"


def class_names(path):
    """Class names that decide: compared, looked up, or passed to something that is no message."""
    for node in ast.walk(tree_of(path)):
        inside = []
        if isinstance(node, ast.Compare):
            inside = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript):
            inside = [node.slice]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("get", "startswith")
        ):
            inside = [node.func.value, *node.args]
        for one in inside:
            if isinstance(one, ast.Attribute) and one.attr == "__name__" and "__main__" not in ast.unparse(node):
                yield f"{node.lineno}: {ast.unparse(node)}"


def long_functions(path):
    """Functions of more than 40 lines of code whose docstring does not say why they are in one piece."""
    for name, node in functions(path):
        text = ast.get_docstring(node) or ""
        if (length := code_lines(path, node)) > 40 and "in one piece" not in text.lower():
            yield f"{name}: {length} lines"


def long_files(path):
    """Files of more than 300 lines of code."""
    if (length := code_lines(path, tree_of(path))) > 300:
        yield f"{length} lines of code"


def foreign_examples(path):
    """Examples that import jsamp in another way than as js."""
    for name, text in documented(path):
        for line in re.findall(r"^\s*(?:>>>|\.\.\.)\s.*\bjsamp\b.*$", text, re.M):
            if re.search(r"from jsamp|import jsamp(?!\s+as js\b)|jsamp\.", line):
                yield f"{name}: {line.strip()}"


def inline_costs(path):
    """`Cost:` with its text on the same line."""
    for name, text in documented(path):
        yield from (f"{name}: {line.strip()}" for line in re.findall(r"^\s*Cost:[ \t]+\S.*$", text, re.M))


def bare_clauses(path):
    """First sentences that are a relative clause and no sentence: "What the past leads to." """
    for name, text in documented(path):
        if (
            name != "module"
            and re.match(r"(What|Where|Who|Whom|Whose|Which)\b", text)
            and not text.startswith("Which ")
        ):
            yield f"{name}: {text.splitlines()[0]}"


def synonyms(path):
    """Arguments and fields whose idea has another name in the house."""
    for node in ast.walk(tree_of(path)):
        names = []
        if isinstance(node, ast.FunctionDef):
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.ClassDef):
            names = [one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and hasattr(one.target, "id")]
        yield from (f"{node.name}: {name} is {SYNONYMS[name]} here" for name in names if name in SYNONYMS)


def plain_imports(path):
    """Public names of a room that are imported otherwise than as `X as X`, and an `__all__` of one name a line."""
    if path.name != "__init__.py" or path.parent.name.startswith("_"):
        return
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if alias.asname != alias.name]
            if names:
                yield f"{node.lineno}: import {', '.join(names)}"
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            values = len(getattr(node.value, "elts", []))
            if values > 6 and node.end_lineno - node.lineno + 1 > values:
                yield f"{node.lineno}: __all__ has a line for each name"


RULES = (
    optional_names, class_names, long_functions, long_files, foreign_examples, inline_costs, bare_clauses, synonyms,
    plain_imports,
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    wrong = []
    for path in FILES:
        found = list(rule(path))
        if len(found) > PENDING.get((rule.__name__, name_of(path)), 0):
            wrong += [f"{name_of(path)}: {one}" for one in found]
    assert not wrong, f"{rule.__doc__}\n" + "\n".join(wrong)


if __name__ == "__main__":
    for each in RULES:
        for file in FILES:
            if number := len(list(each(file))):
                print(f'    ("{each.__name__}", "{name_of(file)}"): {number},')
