"""Metadata that depend on where the package is built: the repository's address, and the README as an index shows it.

Hatchling runs this when it builds the package. The address is that of the workflow that builds, or of the clone's
`origin`; an archive keeps the one it was built with. An index keeps no files of ours, so that relative links would be
dead: with an address they become absolute, without one pictures are left out, and of links the text is kept.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
REMOTE = re.compile(r"(?:(?:https?|ssh|git)://)?(?:[^@/]+@)?(?P<host>[\w-]+(?:\.[\w-]+)+)(?::\d+)?[:/](?P<path>[^:]+)")


def address(remote: str) -> str | None:
    """Turn the address of a git remote into that of its page; names and passwords go, and folders have none."""
    found = re.fullmatch(REMOTE, remote.strip())
    return found and f"https://{found['host']}/{found['path'].strip('/').removesuffix('.git')}"


def source(root: pathlib.Path) -> str | None:
    """Find the address of the repository that a package is built from, or None."""
    if "GITHUB_REPOSITORY" in os.environ:
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{os.environ['GITHUB_REPOSITORY']}"
    if not (root / ".git").exists():  # git would look in the folders above
        return None
    try:
        asked = subprocess.run(["git", "-C", str(root), "remote", "get-url", "origin"], capture_output=True, text=True)
    except OSError:
        return None
    return address(asked.stdout)


def absolute(text: str, source: str | None) -> str:
    """Lead the relative links and pictures of a Markdown text to a repository; code is left alone."""

    def lead(link):
        picture, words, path = link.groups()
        if source is None:
            return "" if picture else words
        return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/main/{path})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)


class PackageMetadata(MetadataHookInterface):
    """Give the package its addresses and its description."""

    def update(self, metadata: dict) -> None:
        """Put the addresses, and the README with its links made absolute, into the metadata."""
        root = pathlib.Path(self.root)
        if "urls" not in metadata and (found := source(root)):
            metadata["urls"] = {
                "Source": found,
                "Issues": f"{found}/issues",
                "Changelog": f"{found}/blob/main/CHANGELOG.md",
                "Documentation": f"{found}/tree/main/docs/pages",
            }
        text = absolute((root / "README.md").read_text(), metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
