"""Hooks of mkdocs.yml: show Markdown files outside docs/ on the documentation site, and make links to them work there.

All files contain the links of the repository, such as `../configs/README.md` in docs/, which work in both places.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

OUTSIDE = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "configs/README.md",
    "datasets/README.md",
    "examples/README.md",
    "tools/everyday/README.md",
    "examples/quickstart.ipynb",
    "examples/cluster/slurm.sh",
    "examples/cluster/kubernetes-job.yaml",
    "examples/cluster/kuberay-rayjob.yaml",
)
"""Files outside docs/ on the site, with their paths in the repository: Markdown files as pages, the others to download.
README.md is not one of them: index.md is."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change the relative links of a page from places in the repository to places on the site.

    A link whose text is the name of a Markdown file gets the title of that page instead.
    """
    here = posixpath.dirname(page.file.src_uri)
    in_repository = here if page.file.src_uri in OUTSIDE else posixpath.join("docs", here)

    titles = _titles(config.nav or [])

    def site_link(match: re.Match[str]) -> str:
        text, target = match[1], posixpath.normpath(posixpath.join(in_repository, match[2])).removeprefix("docs/")
        shown = "" if text is None else f"[{titles.get(target, text)}"
        return f"{shown}]({posixpath.relpath(target, here or '.')}"

    return re.sub(r"(?:\[([\w./-]+\.md))?\]\((?![a-z]+:)([^)#\s]+)", site_link, markdown)


def _titles(nav: list[Any]) -> dict[str, str]:
    """Return path of a page → its title in the navigation."""
    titles: dict[str, str] = {}
    for entry in nav:
        for title, target in entry.items():
            titles |= {target: title} if isinstance(target, str) else _titles(target)
    return titles


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep the flags of commands, such as `--minutes`, on one line: browsers break lines after hyphens."""
    return re.sub(r"(?<=[>\s])--[a-z][a-z0-9-]*", r'<span class="flag">\g<0></span>', html)
