"""Links from pages to files of the repository: each file that is linked to becomes a page of the site, too.

MkDocs calls `on_files` and `on_page_markdown`; a link to a file that is not there stays as it is, and the strict build
fails on it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)(?=[)#])")
SOURCE = "source"  # folder of the pages of files
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for every file that a page links to, and for what those link to."""
    todo = [page.src_uri for page in files.documentation_pages()]
    while todo:
        page = todo.pop()
        for path in outside(page, files):
            uri = page_of(path)
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, content=content(path)))
                todo.append(uri)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Sends links to files of the repository to their pages."""
    uri = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        path = target(uri, found[1])
        if path is None:
            return found[0]
        here = path.removeprefix("docs/") if path.startswith("docs/") else page_of(path)
        return posixpath.relpath(here, posixpath.dirname(uri) or ".")

    return LINK.sub(link, markdown)


def outside(uri: str, files: Files) -> Iterator[str]:
    """Files of the repository, not of docs/, that a page links to."""
    file = files.get_file_from_path(uri)
    assert file is not None
    for link in LINK.findall(file.content_string):
        path = target(uri, link)
        if path is not None and not path.startswith("docs/"):
            yield path


def target(uri: str, link: str) -> str | None:
    """The file of the repository that a link means, as seen from where the page stands there; None: it is not there."""
    here = uri.removeprefix(f"{SOURCE}/") if uri.startswith(f"{SOURCE}/") else f"docs/{uri}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
    return path if (ROOT / path).is_file() else None


def page_of(path: str) -> str:
    """Where a file of the repository stands in the site."""
    kept = path.endswith(".md") or os.path.splitext(path)[1] not in LANGUAGES
    return f"{SOURCE}/{path}" if kept else f"{SOURCE}/{path}.md"


def content(path: str) -> str | bytes:
    """A page as it is, code in a fence, anything else to be downloaded."""
    language = LANGUAGES.get(os.path.splitext(path)[1])
    if language is None:
        return (ROOT / path).read_text(encoding="utf-8") if path.endswith(".md") else (ROOT / path).read_bytes()
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text(encoding='utf-8')}````\n"
