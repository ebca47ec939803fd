"""A hook of mkdocs: links that leave docs/ (to sources, recipes, results) become paths: a site has no such files."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite the links of a page, but not its code."""
    folder, lines, fence = posixpath.dirname(page.file.src_uri), [], ""
    for line in markdown.splitlines():
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        lines.append(line if fence or mark else _LINK.sub(lambda link: _told(link, folder), line))
    return "\n".join(lines) + "\n"


def _told(link: re.Match[str], folder: str) -> str:
    target = posixpath.normpath(posixpath.join(folder, link[2]))
    if not target.startswith(".."):
        return link[0]
    path = target.removeprefix("../")
    return f"`{path}`" if posixpath.basename(path) == link[1].strip("`") else f"{link[1]} (`{path}`)"
