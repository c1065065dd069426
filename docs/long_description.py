"""The README as a package index shows it: pictures and links lead to the repository, or are left out without one.

Hatchling runs this when it builds the package. An index keeps no files of ours, so that relative links would be dead.
With `[project.urls] Source = "https://..."` in pyproject.toml they become absolute; until then pictures are left out,
and of links the text is kept.
"""

from __future__ import annotations

import pathlib
import re

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def absolute(text: str, source: str | None) -> str:
    """Lead the relative links and pictures of a Markdown text to a repository; code is left alone."""

    def lead(link):
        picture, words, path = link.groups()
        if source is None:
            return "" if picture else words
        return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/main/{path})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)


class LongDescription(MetadataHookInterface):
    """Give the package its description."""

    def update(self, metadata: dict) -> None:
        """Put the README, its links made absolute, into the metadata."""
        text = (pathlib.Path(self.root) / "README.md").read_text()
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, source)}
