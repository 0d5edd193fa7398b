"""Hooks of mkdocs.yml: show Markdown files outside docs/ on the documentation site, and make links to them work there.

All files contain the links of the repository, such as `../configs/README.md` in docs/, which work in both places.
"""

import posixpath
import re
from pathlib import Path

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
    """Change the relative links of a page from places in the repository to places on the site."""
    here = posixpath.dirname(page.file.src_uri)
    in_repository = here if page.file.src_uri in OUTSIDE else posixpath.join("docs", here)

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(in_repository, match[1]))
        return "](" + posixpath.relpath(target.removeprefix("docs/"), here or ".")

    return re.sub(r"\]\((?![a-z]+:)([^)#\s]+)", site_link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep the flags of commands, such as `--minutes`, on one line: browsers break lines after hyphens."""
    return re.sub(r"(?<=[>\s])--[a-z][a-z0-9-]*", r'<span class="flag">\g<0></span>', html)
