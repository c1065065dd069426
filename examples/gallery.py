"""Run the examples and write the picture of each beside its lines of code, with one page of HTML that shows both.

    python examples/gallery.py --out gallery
    python examples/gallery.py hello_solver hello_chain --out gallery

Without names all examples with a picture are run, as the command in the docstring of each says; that takes some twenty
minutes on two cores. `--out examples/gallery` renews the pictures of the documentation.
"""

from __future__ import annotations

import argparse
import ast
import html
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent


class Entry(NamedTuple):
    """An example: its name, what it says of itself, the arguments it is run with, and its text."""

    name: str
    about: str
    arguments: list[str]
    code: str

    @property
    def draws(self) -> bool:
        """Whether it writes a picture."""
        return "--out" in self.arguments and not self.arguments[self.arguments.index("--out") + 1].endswith(".npz")


def entries() -> list[Entry]:
    """Read every example whose docstring says how to run it; this file and training to models are not among them."""
    found = []
    for path in sorted(HERE.glob("*.py")):
        code = path.read_text()
        about = ast.get_docstring(ast.parse(code)) or ""
        command = re.search(rf"python examples/{path.name}(.*)", about)
        if command is not None and path.stem != "gallery":
            first = about.split("\n\n")[0].replace("\n", " ")
            found.append(Entry(path.stem, first, shlex.split(command[1]), code))
    return found


def picture(entry: Entry) -> pathlib.Path | None:
    """The picture of an example that is kept in the repository, if there is one."""
    kept = HERE / "digits.png" if entry.name == "draw_digits" else HERE / "gallery" / f"{entry.name}.png"
    return kept if kept.exists() else None


def shrink(path: pathlib.Path, most: int = 60_000) -> None:
    """Save a picture with 64 colours, and smaller if it must be, until its file has at most so many bytes."""
    from PIL import Image

    scale = 1.0
    while path.stat().st_size > most:
        with Image.open(path) as whole:
            size = [max(1, round(scale * side)) for side in whole.size]
            small = whole.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(64)
        small.save(path, optimize=True)
        scale = 0.9


def run(entry: Entry, target: pathlib.Path) -> float:
    """Run an example, move its picture to a file, and return the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = list(entry.arguments)
        place = arguments.index("--out") + 1
        arguments[place] = folder if arguments[place] == "." else str(pathlib.Path(folder) / "picture.png")
        start = time.perf_counter()
        subprocess.run([sys.executable, str(HERE / f"{entry.name}.py"), *arguments], check=True, cwd=HERE.parent)
        made = sorted(pathlib.Path(folder).glob("*.png"))
        if len(made) != 1:
            raise RuntimeError(f"{entry.name} wrote {len(made)} pictures, and the gallery shows one.")
        shutil.copy(made[0], target)
        shrink(target)
        return time.perf_counter() - start


def page(prefix: str) -> str:
    """Write the gallery as Markdown: each example with its kept picture under `prefix`, its command and its code."""
    lines = [
        "# Gallery",
        "",
        "Every example is one file that runs as it stands, and a test runs each. `python examples/gallery.py` draws "
        "them all.",
    ]
    for entry in entries():
        lines += ["", f"## {entry.name} {{ #{entry.name} }}", "", entry.about, ""]
        if picture(entry) is not None:
            lines += [f"![{entry.name}]({prefix}{entry.name}.png)", ""]
        command = shlex.join(["python", f"examples/{entry.name}.py", *entry.arguments])
        lines += ["```sh", command, "```", "", f'??? example "{len(entry.code.splitlines())} lines"', "    ```python"]
        lines += [f"    {line}" if line else "" for line in entry.code.rstrip().splitlines()] + ["    ```"]
    return "\n".join(lines) + "\n"


def write_html(out: pathlib.Path, made: list[Entry]) -> None:
    """Write one page with the pictures that were made and the code that made them."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>jsamp: gallery</title>",
        "<body style='font-family: sans-serif; max-width: 60rem'>",
    ]
    for entry in made:
        lines = len(entry.code.splitlines())
        parts += [f"<h2>{entry.name}</h2><p>{html.escape(entry.about)}</p>"]
        parts += [f"<img src='{entry.name}.png' style='max-width: 100%'>"]
        parts += [f"<details><summary>{lines} lines</summary><pre>{html.escape(entry.code)}</pre></details>"]
    (out / "index.html").write_text("\n".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {entry.name: entry for entry in entries() if entry.draws}
    parser.add_argument("names", nargs="*", help=f"among {', '.join(known)}; default all")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gallery"), help="folder of the pictures")
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(
            f"no example with a picture is called {', '.join(sorted(unknown))}. Choose among {', '.join(known)}."
        )
    args.out.mkdir(parents=True, exist_ok=True)
    made = [known[name] for name in args.names or known]
    for entry in made:
        seconds = run(entry, args.out / f"{entry.name}.png")
        print(f"{entry.name}: {len(entry.code.splitlines())} lines, {seconds:.0f} s", flush=True)
    write_html(args.out, made)
    print(f"{args.out / 'index.html'}: {len(made)} pictures with their code")


if __name__ == "__main__":
    main()
