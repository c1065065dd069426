"""The pages of the site that are made of something else: scripts, docstrings, tables and measured results."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re
import tomllib

import jsamp

ROOT = pathlib.Path(__file__).resolve().parents[1]
TUTORIALS = {"denoiser": "A denoiser", "logdensity": "A log-density", "dataset": "A dataset", "tokens": "A token model"}


def rooms() -> list[str]:
    """List the public rooms, as the package names them."""
    return sorted(name for name in jsamp.__all__ if inspect.ismodule(getattr(jsamp, name)))


def names(room: str) -> list[str]:
    """List the public names of a room; of "jsamp", those that are no rooms."""
    return [n for n in _module(room).__all__ if room != "jsamp" or n not in rooms()]


def _module(room: str):
    return jsamp if room == "jsamp" else importlib.import_module(f"jsamp.{room}")


def _path(room: str, name: str) -> str:
    return f"jsamp.{name}" if room == "jsamp" else f"jsamp.{room}.{name}"


def _first_sentence(text: str) -> str:
    """The first line of a docstring, safe in a cell of a table."""
    line = re.split(r"(?<=\w\.) (?=[A-Z])", inspect.cleandoc(text).split("\n\n")[0].replace("\n", " "))[0]
    # Code spans keep their letters; outside of them, what Markdown would read is written out.
    outside = lambda part: re.sub(r"[*_<\[\]]", lambda found: f"&#{ord(found[0])};", part)
    parts = line.split("`")
    return "`".join(part if i % 2 else outside(part) for i, part in enumerate(parts)).replace("|", "&#124;")


def reference(room: str) -> str:
    """Write the page of a room: what it is, a table of its names, then each with its docstring."""
    module = _module(room)
    title = "jsamp" if room == "jsamp" else f"js.{room}"
    lines = [f"# {title}", "", inspect.cleandoc(module.__doc__ or ""), "", "| name | |", "|---|---|"]
    lines += [
        f"| [`{n}`][{_path(room, n)}] | {_first_sentence(inspect.getdoc(getattr(module, n)) or '')} |"
        for n in names(room)
    ]
    for name in names(room):
        lines += ["", f"::: {_path(room, name)}"]
    return "\n".join(lines) + "\n"


def systems() -> list[dict]:
    """Read the table of systems, each with the names that exist (`built`) and those that do not."""
    table = tomllib.loads((ROOT / "docs" / "systems.toml").read_text())["system"]
    for row in table:
        parts = [name.split(".") for name in row["names"]]
        row["missing"] = [f"{room}.{name}" for room, name in parts if name not in getattr(_module(room), "__all__", ())]
        if "example" in row and not (ROOT / "examples" / f"{row['example']}.py").exists():
            row["missing"] += [] if parts else [f"examples/{row['example']}.py"]
            del row["example"]
        row["built"] = not row["missing"]
        row["claims"] = _claims_of(row)
    return table


CLAIMS = ROOT / "tests" / "claims"


def _claims_of(row: dict) -> list[str]:
    """The claim tests of a system that exist: those its row names, and those that name its paper."""
    named = [stem for stem in row["claims"] if (CLAIMS / f"{stem}.py").exists()]
    paper = row.get("arxiv", "no identifier")
    others = [path.stem for path in sorted(CLAIMS.glob("test_*.py")) if paper in path.read_text()]
    return list(dict.fromkeys(named + others))


def _claim(stem: str) -> str:
    """What a claim test says it shows: the first paragraphs of its docstring."""
    text = ast.get_docstring(ast.parse((CLAIMS / f"{stem}.py").read_text())) or ""
    parts = [part.replace("\n", " ") for part in text.split("\n\n")]
    stated = [part for part in parts if part.startswith("Claim")]
    return (stated or parts)[0]


def _shown_claim(stem: str) -> list[str]:
    return ["", _claim(stem), "", f"```sh\npython -m pytest -n 0 tests/claims/{stem}.py\n```"]


def map_of_systems() -> str:
    """Write the map: paper, names, claim, command and picture of every system."""
    table = systems()
    built = sum(row["built"] for row in table)
    lines = [
        "# Published systems",
        "",
        f"{built} of {len(table)} are built; the others say what is missing. A claim test shows the headline of the "
        "paper at toy scale, with direction and size, and fails when the method is broken. Run one with its command, "
        "from a clone with `pip install -e '.[test]'`.",
    ]
    for row in table:
        lines += ["", f"## {row['number']}. {row['name']}", ""]
        paper = row["paper"] + (
            f", [arXiv:{row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})" if "arxiv" in row else ""
        )
        shown = [f"`js.{n}`" if n in row["missing"] else f"[`js.{n}`][jsamp.{n}]" for n in row["names"]]
        lines += [paper + ".", "", ", ".join(shown or ["An example made of public names alone"]) + "."]
        if row["missing"]:
            absent = ", ".join(f"`{n}`" if "/" in n else f"`js.{n}`" for n in row["missing"])
            lines += ["", f'!!! note "Not built yet"\n    Missing: {absent}.']
        for stem in row["claims"]:
            lines += _shown_claim(stem)
        if row["built"] and not row["claims"]:
            lines += ["", "No claim test yet."]
        if picture := row.get("example"):
            lines += ["", f"Example: [`examples/{picture}.py`](gallery.md#{picture})."]
            lines += ["", f"![{picture}](pictures/{picture}.png)"] if f"pictures/{picture}.png" in pictures() else []
    lines += ["", "## Claims of further papers"]
    for stem in sorted({path.stem for path in CLAIMS.glob("test_*.py")} - {c for row in table for c in row["claims"]}):
        lines += _shown_claim(stem)
    return "\n".join(lines) + "\n"


def tutorial(path: pathlib.Path) -> str:
    """Turn a script into a page: docstring and comments at the margin are text, `# >` lines what it prints."""
    text = path.read_text()
    first = ast.parse(text).body[0]
    head, *rest = ast.literal_eval(first.value).split("\n", 1)
    lines = [f"# {head.rstrip('.')}", "", *(r.strip() for r in rest), ""]
    lines += ["", f"The whole script is `docs/tutorials/{path.name}`; a test runs it and compares what it prints."]
    for block in re.split(r"\n\n+", "\n".join(text.splitlines()[first.end_lineno :]).strip()):
        body = block.splitlines()
        prose = 0
        while prose < len(body) and body[prose].startswith("# ") and not body[prose].startswith("# > "):
            prose += 1
        printed = [line[4:] for line in body if line.startswith("# > ")]
        code = [line for line in body[prose:] if not line.startswith("# > ")]
        lines += ["", " ".join(line[2:] for line in body[:prose])] if prose else []
        lines += ["", "```python", *code, "```"] if code else []
        lines += ["", "```text", *printed, "```"] if printed else []
    # Blocks of code that follow each other are one.
    return re.sub(r"\n```\n+```python\n", "\n\n", "\n".join(lines)) + "\n"


def own(kind: str) -> str:
    """Write the guide to one's own solver, guidance, ...: the section of CONTRIBUTING.md, its diffs as files."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(rf"^## Your first {kind}\n(.*?)(?=^## )", text, re.M | re.S).group(1)

    def file(match):
        parts = re.split(r"^--- /dev/null\n\+\+\+ b/(\S+)\n@@.*@@\n", match.group(1), flags=re.M)[1:]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        clean = lambda body: "\n".join(line[1:] for line in body.rstrip("\n").splitlines())
        return "\n".join(f'```python title="{name}"\n{clean(body)}\n```\n' for name, body in pairs)

    return f"# Your own {kind}\n" + re.sub(r"```diff\n(.*?)```", file, section, flags=re.S)


def benchmarks() -> dict[str, str]:
    """Write a page for each measured result, under the name of its script."""
    found, folder = {}, ROOT / "benchmarks" / "results"
    for path in sorted(folder.rglob("*")):
        where = "-".join(path.relative_to(folder).with_suffix("").parts)
        if path.suffix == ".md":
            picture = folder / f"{path.stem}.png"
            shown = f"\n![{path.stem}]({picture.name})\n" if picture.exists() and path.parent == folder else ""
            text = path.read_text().rstrip() + "\n" + shown
            title = f"{path.parent.name} " if path.parent != folder else ""
            found[f"benchmarks/{where}.md"] = re.sub(r"^# ", f"# {title.upper()}", text, count=1)
        elif path.suffix == ".txt":
            found[f"benchmarks/{where}.md"] = (
                f"# {path.stem.capitalize()}\n\n```text\n{path.read_text().rstrip()}\n```\n"
            )
    return found


def gallery() -> str:
    """Write the gallery: each example with its picture and its lines of code."""
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page(prefix="pictures/")


def pages() -> dict[str, str]:
    """Make every generated page: name -> Markdown."""
    made = {f"reference/{room}.md": reference(room) for room in ["jsamp", *rooms()]}
    made |= {f"tutorials/{name}.md": tutorial(ROOT / "docs" / "tutorials" / f"{name}.py") for name in TUTORIALS}
    made |= {f"guides/own-{kind}.md": own(kind) for kind in ("solver", "guidance", "kernel", "loss")}
    made |= benchmarks()
    made["benchmarks/index.md"] = (ROOT / "benchmarks" / "README.md").read_text()
    made |= {"systems.md": map_of_systems(), "gallery.md": gallery()}
    return made


def pictures() -> dict[str, pathlib.Path]:
    """List the pictures that pages show: name on the site -> file."""
    found = {f"pictures/{path.name}": path for path in sorted((ROOT / "examples" / "gallery").glob("*.png"))}
    found["pictures/draw_digits.png"] = ROOT / "examples" / "digits.png"
    return found | {f"benchmarks/{path.name}": path for path in sorted((ROOT / "benchmarks" / "results").glob("*.png"))}
