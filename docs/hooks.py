"""Hooks of mkdocs: add the pages and pictures that are generated, and their entries in the navigation."""

import pathlib
import sys

from mkdocs.structure.files import File

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import generate  # noqa: E402


def on_config(config):
    """Append the reference, by room, and the measured results to the navigation."""
    config["nav"] += [{"Reference": [f"reference/{name}.md" for name in ["jsamp", *generate.rooms()]]}]
    config["nav"] += [{"Benchmarks": ["benchmarks/index.md", *sorted(generate.benchmarks())]}]
    return config


def on_files(files, config):
    """Add what is generated from scripts, docstrings, tables and results."""
    for name, text in generate.pages().items():
        files.append(File.generated(config, name, content=text))
    for name, path in generate.pictures().items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
