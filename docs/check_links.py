"""Check the documentation: every relative link leads to a file here, every Python example compiles.

Run by ``make docs``. Prints one line a fault, with file and line, and exits 1 if there are any. Headings
(after ``#``) and addresses with a scheme are not followed.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*(\S*)")
CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINKS = (
    re.compile(r"\]\(\s*(?:<([^>]*)>|([^()\s]*(?:\([^()]*\)[^()\s]*)*))"),  # [text](target)
    re.compile(r"^\s{0,3}\[[^\]^][^\]]*\]:\s*(?:<([^>]*)>|(\S+))"),  # [name]: target
    re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=(?:\"([^\"]*)\"|'([^']*)')"),
)
SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and every page under docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def link_fault(page: Path, target: str) -> str | None:
    """What is wrong with a link target as written in `page`; None if nothing is, or if it leads elsewhere."""
    if SCHEME.match(target):
        return None
    path = unquote(target.partition("#")[0].partition("?")[0])
    if not path:
        return None if target.startswith("#") else "empty link"
    if path.startswith("/"):
        return f"link {target} must be relative"
    goal = (page.parent / path).resolve()
    if not goal.is_relative_to(ROOT):
        return f"link {target} leads out of the repository"
    return None if goal.exists() else f"link {target} leads nowhere"


def code_fault(page: Path, first: int, lines: list[str]) -> str | None:
    """Why a Python example does not compile, with its line in the page; None if it does."""
    try:
        compile("\n" * (first - 1) + textwrap.dedent("\n".join(lines)), str(page), "exec")
    except SyntaxError as error:
        return f"{page.relative_to(ROOT)}:{error.lineno or first}: example does not compile: {error.msg}"
    return None


def faults(page: Path) -> Iterator[str]:
    """Yield the faults of one page, in reading order."""
    name = page.relative_to(ROOT)
    fence, language, first, block = "", "", 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = FENCE.match(line)
        if fence and mark and mark[1].startswith(fence) and not mark[2]:
            if language == "python" and (fault := code_fault(page, first, block)):
                yield fault
            fence = ""
        elif fence:
            block.append(line)
        elif mark:
            fence, language, first, block = mark[1], mark[2], number + 1, []
        else:
            prose = CODE_SPAN.sub("", line)
            for match in (match for pattern in LINKS for match in pattern.finditer(prose)):
                if fault := link_fault(page, match[1] or match[2] or ""):
                    yield f"{name}:{number}: {fault}"
    if fence:
        yield f"{name}:{first - 1}: code block has no end"


def main() -> int:
    """Check all pages; 0 if there is no fault, 1 otherwise."""
    missing = [f"{page.relative_to(ROOT)}: not there" for page in pages() if not page.exists()]
    found = missing + [fault for page in pages() if page.exists() for fault in faults(page)]
    print("\n".join(found) or f"{len(pages())} pages: links and Python examples are sound")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
