"""What MkDocs does beyond its own: pages from the registries, files outside `docs/`, and Markdown as forges read it.

`docs/` is written for a forge: links lead to files of the repository, and a list or table may follow its paragraph without a
blank line. For the site, linked files outside `docs/` are copied to `repository/`, and the blank lines are put in.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import reference_pages
from mkdocs.structure.files import File

from slabench.core.files import write_bytes

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(\[[^\]]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
_STARTS = re.compile(r"\|| {0,3}(?:[-*] |\d+\. )")
_OUTSIDE = "repository"


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and every file of the repository that a page links to."""
    for name, text in reference_pages.pages().items():
        files.append(File.generated(config, name, content=text))
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    seen: set[str] = set()
    while waiting:
        page, text = waiting.pop()
        for match in _LINK.finditer(_without_code(text)):
            target = _target(page, match[2])
            if target is None or target in seen or target.startswith("docs/") or not (ROOT / target).is_file():
                continue
            seen.add(target)
            uri = f"{_OUTSIDE}/{target}"
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
            if target.endswith(".md"):
                waiting.append((target, (ROOT / target).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to where the site has the files, and part blocks as Python-Markdown wants them parted."""
    uri = page.file.src_uri
    here = uri.removeprefix(f"{_OUTSIDE}/") if uri.startswith(f"{_OUTSIDE}/") else f"docs/{uri}"

    def moved(match: re.Match[str]) -> str:
        target = _target(here, match[2])
        if target is None:
            return match[0]
        if (ROOT / target).is_dir():
            return match[1][1:-1]  # the site has no page of a folder
        place = target.removeprefix("docs/") if target.startswith("docs/") else f"{_OUTSIDE}/{target}"
        return f"{match[1]}({os.path.relpath(place, PurePosixPath(uri).parent)}{match[3] or ''})"

    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", markdown, flags=re.MULTILINE | re.DOTALL)
    linked = "".join(part if part.startswith("`") else _LINK.sub(moved, part) for part in _joined(parts))
    return parted(linked)


def on_post_page(output: str, **_: Any) -> str:
    """The theme's search is a dialog without a name, which readers of the screen would not announce."""
    search = 'data-md-component="search" role="dialog"'
    return output.replace(search, f'{search} aria-label="Search"')


def on_post_build(config: Any, **_: Any) -> None:
    """Write the search index as a script too, which the theme loads where a page was opened from a folder."""
    index = Path(config["site_dir"]) / "search" / "search_index.json"
    if index.is_file():
        write_bytes(index.with_suffix(".js"), b"var __index = " + index.read_bytes())


def _joined(parts: list[str]) -> list[str]:
    """Links whose text is code stay whole: `[`, code, `](target)` become one part."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1].endswith("[") or (part.startswith("](") and "`" in joined[-1])):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _target(page: str, link: str) -> str | None:
    """What a relative link of `page` leads to, as a path within the repository; None for addresses."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    target = os.path.normpath(PurePosixPath(page).parent / link)
    return None if target.startswith("..") else target


def parted(markdown: str) -> str:
    """Put a blank line before a list or a table that follows a paragraph."""
    lines: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        before = lines[-1] if lines else ""
        if (
            not fenced
            and _STARTS.match(line)
            and before.strip()
            and not _STARTS.match(before)
            and not before.startswith((" ", "#"))
            and not _within_item(lines)
        ):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _within_item(lines: list[str]) -> bool:
    """Whether the last line goes on with a list item or a table that is already open."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if _STARTS.match(line):
            return True
    return False
