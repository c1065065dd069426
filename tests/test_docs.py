"""The documentation: tables agree with the package, code on pages runs, the site builds strictly and has nothing broken."""

import functools
import html.parser
import http.server
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import threading
import tomllib
import urllib.parse

import chromium
import compile_cache
import pytest

import jsamp as js

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"
ROOMS = sorted(name for name in js.__all__ if inspect.ismodule(getattr(js, name)))
SYSTEMS = tomllib.loads((ROOT / "docs" / "systems.toml").read_text())["system"]


def environment():
    """Where scripts find the package, and the compile cache of this worker."""
    ours = {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", "MPLBACKEND": "Agg"}
    return os.environ | ours | compile_cache.of_child()


def run(command, folder=ROOT):
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=500, check=False
    )


def test_the_map_has_each_of_the_58_systems_once():
    assert [row["number"] for row in SYSTEMS] == list(range(1, 59))
    assert all(set(row) <= {"number", "name", "paper", "arxiv", "names", "claims", "example"} for row in SYSTEMS)
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", row["arxiv"]) for row in SYSTEMS if "arxiv" in row)
    assert all((row["names"] or row["example"]) and row["claims"] for row in SYSTEMS)


@functools.cache
def module(name):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.mark.parametrize("row", SYSTEMS, ids=lambda row: str(row["number"]))
def test_a_system_is_built_and_has_a_claim_test(row):
    found = next(one for one in module("generate").systems() if one["number"] == row["number"])
    assert found["built"], found["missing"]
    assert found["claims"], "no claim test, listed or naming the paper's arXiv number"


def test_every_claim_test_is_on_the_map():
    page = module("generate").map_of_systems()
    stems = [path.stem for path in (ROOT / "tests" / "claims").glob("test_*.py")]
    assert len(stems) > 50
    assert all(f"tests/claims/{stem}.py" in page for stem in stems)


def rows_of(path):
    """Cells of the body of every table of a page."""
    for line in path.read_text().splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\-: ]+", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("path", sorted((PAGES / "coming-from").glob("*.md")), ids=lambda path: path.stem)
def test_names_on_pages_for_newcomers_exist(path):
    found = re.findall(r"`js\.(\w+)(?:\.(\w+))?", path.read_text())
    assert len(found) >= 5
    wrong = [
        ".".join(filter(None, one)) for one in found if not hasattr(getattr(js, one[0], None), one[1] or "__name__")
    ]
    assert not wrong, wrong
    assert all(len(row) == len(next(rows_of(path))) or len(row) in (2, 3) for row in rows_of(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoiser", "logdensity", "dataset", "tokens"])
def test_tutorials_print_what_they_say(name):
    """Words agree exactly, numbers to a tenth or two units of their last digit."""
    path = ROOT / "docs" / "tutorials" / f"{name}.py"
    done = run([sys.executable, str(path)])
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line.removeprefix("# > ") for line in path.read_text().splitlines() if line.startswith("# > ")]
    printed = done.stdout.splitlines()
    assert len(said) == len(printed) > 1, done.stdout
    number = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
    for want, got in zip(said, printed, strict=True):
        assert number.sub("#", want) == number.sub("#", got)
        for a, b in zip(number.findall(want), number.findall(got), strict=True):
            slack = 2 * 10.0 ** -len(a.partition(".")[2]) if "." in a else 0
            assert abs(float(a) - float(b)) <= max(0.1 * abs(float(a)), slack), f"{want} became {got}"


def pages_with_code():
    return [path for path in sorted(PAGES.rglob("*.md")) if "```python" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("path", pages_with_code(), ids=lambda path: path.stem)
def test_code_on_pages_runs(path):
    """The blocks of a page, one after the other, as a reader would."""
    text = path.read_text()
    for library in ("numpyro",):
        if f"import {library}" in text:
            pytest.importorskip(library, reason="the page needs it")
    if "js.plot" in text:
        pytest.importorskip("matplotlib", reason="the page needs it").use("Agg")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, str(path), "exec"), names)


# The built site.


class Page(html.parser.HTMLParser):
    """The anchors, links and resources of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.resources, self.errors = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        source = values.get("src") or (values.get("href") if tag == "link" else None)
        if source and values.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.resources.append(source)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for library in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        pytest.importorskip(library, reason='the site needs it: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = run([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", str(folder)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site):
    """Every page of the site, parsed."""
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_links_and_pictures_of_the_site_are_there(site, built):
    wrong = []
    for path, page in built.items():
        if path.name == "404.html":
            continue  # its links are absolute, for any address
        for target in (*page.links, *page.resources):
            parts = urllib.parse.urlsplit(target)
            if parts.scheme in ("http", "https"):
                if target in page.resources:
                    wrong.append(f"{path.name} loads {target} from elsewhere")
                continue
            where = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if not where.exists():
                wrong.append(f"{path.relative_to(site)} -> {target}")
            elif parts.fragment and where in built and parts.fragment not in built[where].ids | {"__skip"}:
                wrong.append(f"{path.relative_to(site)} -> {target}: no such anchor")
    assert not wrong, "\n".join(wrong[:40])
    assert sum(len(page.links) for page in built.values()) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("room", ["jsamp", *ROOMS])
def test_every_public_name_is_on_the_site_with_an_example(site, room):
    """Records made by functions and protocols are exempt from the example, as in the rules of the house."""
    text = (site / "reference" / f"{room}.html").read_text()
    names = [n for n in js.__all__ if n not in ROOMS] if room == "jsamp" else getattr(js, room).__all__
    path = "jsamp" if room == "jsamp" else f"jsamp.{room}"
    sections = dict(re.findall(r'<h2 id="(jsamp[\w.]+)".*?</h2>(.*?)(?=<h2 id=|</article>)', text, re.S))
    assert set(sections) == {f"{path}.{name}" for name in names}
    for name in names:
        thing = getattr(js if room == "jsamp" else getattr(js, room), name)
        record = inspect.isclass(thing) and issubclass(thing, tuple) and hasattr(thing, "_fields")
        if not record and not getattr(thing, "_is_protocol", False) and room != "jsamp":
            assert 'class="gp"' in sections[f"{path}.{name}"], f"{name} shows no example"


@pytest.mark.slow
def test_every_page_opens_in_a_browser_and_search_works(site, tmp_path):
    path = chromium.find()
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    handler = functools.partial(Quiet, directory=str(site))
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root, wrong = f"http://127.0.0.1:{server.server_port}", []
    try:
        with chromium.Browser(path, tmp_path) as browser:
            for page in sorted(site.rglob("*.html")):
                name = page.relative_to(site).as_posix()
                wrong += [f"{name}: {one}" for one in browser.open(f"{root}/{name}")]
                dead = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
                wrong += [f"{name}: picture {one}" for one in browser.ask(dead)]
            browser.open(f"{root}/index.html")
            assert "jsamp.solve.dpmpp" in " ".join(browser.ask(SEARCH))
    finally:
        server.shutdown()
        server.server_close()
    assert not wrong, "\n".join(wrong[:40])


SEARCH = """(async () => {
  const box = document.querySelector("input.md-search__input");
  document.querySelector("#__search").click();
  box.focus(); box.value = "dpmpp";
  for (let i = 0; i < 100; i++) {
    box.dispatchEvent(new Event("input", {bubbles: true})); box.dispatchEvent(new Event("keyup", {bubbles: true}));
    await new Promise(done => setTimeout(done, 100));
    const found = [...document.querySelectorAll(".md-search-result__item a")].map(a => a.href);
    if (found.length) return found;
  }
  return [];
})()"""


class Server(http.server.ThreadingHTTPServer):
    """A server that waits for its threads when it closes, so that they close their sockets."""

    daemon_threads = False


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server without a log."""

    timeout = 10

    def log_message(self, *arguments):
        """Say nothing."""
