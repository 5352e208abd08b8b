"""The pages of the documentation and the commands that they show, for the tests that hold them to the suite."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
PAGES += [ROOT / "results" / "README.md"]
# Lines of a code block; what stands behind two blanks explains them. Commands within a sentence may leave arguments out.
_COMMAND = re.compile(r"^(?:    )?(slabench \S+(?: \S+)*)", re.MULTILINE)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(page: Path) -> str:
    """The lines of a page that are code: between fences, or indented by four blanks."""
    parts = text(page).split("```")
    indented = [line for part in parts[::2] for line in part.splitlines() if line.startswith("    ")]
    return "\n".join([*indented, *parts[1::2]])


def commands() -> list[str]:
    """Every command that a page shows and that can be typed as it stands."""
    found = {match.strip() for page in PAGES for match in _COMMAND.findall(code(page))}
    # Placeholders and alternatives are prose, not commands.
    return sorted(c for c in found if not re.search(r"[|\[\]<>…]|\.\.\.|\b[A-Z]{2,}\b", c))


def copy_records(folder: Path) -> None:
    """Copy some of the published records: FC100 5-way 5-shot with its curves and two heads, and the classifiers.

    The others are more of the same kinds, and most of the time that a report takes to draw: of seeds, shots and numbers
    of images two are here, of ratios one.
    """
    more = (
        "fewshot-cifar-fs-*",
        "openset-cifar-fs-*",
        "*-5w1s*",
        "*-5w10s*",
        "*-5w20s*",
        "*-10w*",
        "*-20w*",
        "allclasses-cifar100-2s",
        "allclasses-cifar100-8s",
        "allclasses-cifar100-16s",
        "*-exp-r10-adapter",
        "*-exp-r50-adapter",
        "*-50-a-class-*",
        "*-100-a-class-*",
        "*-250-a-class-*",
        "seed[2-9]-*",
    )
    heads = ("*-simpleshot", "*-cosine", "*-cosine-fitted", "*-protonet")
    left_out = shutil.ignore_patterns("checkpoints", "*.outputs.safetensors", "*.tmp", *more, *heads)
    shutil.copytree(ROOT / "results", folder, ignore=left_out)
