"""The pages of the documentation that are made from the registries: names, defaults and parameters cannot go stale.

`pages()` gives Markdown by file name, of what comes with slabench only (no plug-ins), the same on every machine whatever
data is there. `scripts/site_hooks.py` puts the pages into the site; none is committed. To look at them:
`python scripts/reference_pages.py FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from typer.main import get_command

from slabench.cli import listing
from slabench.cli.app import app
from slabench.cli.commands import Group
from slabench.cli.complete import names_of
from slabench.core import paths
from slabench.core.files import write_bytes
from slabench.core.registry import BUILT_IN, DATASETS, REGISTRIES
from slabench.data.sources.detect import layouts
from slabench.data.splits import load_split
from slabench.recipes import load_recipe, recipe_names

_KINDS = {
    "backbones": (
        "Backbones",
        "A backbone maps images to features. `--backbone NAME`; [adding one](plugins.md). Few-shot runs take `conv4` by default, "
        "classifiers `resnet20`.",
    ),
    "heads": (
        "Heads",
        "A head classifies the queries of an episode by its supports. `--head NAME`; which need training, and what each is "
        "tested against: [learners and heads](learners.md).",
    ),
    "losses": (
        "Losses",
        "Losses of the suites `imbalanced` and `supervised`. `--loss NAME`; what goes with what: [long tails](classifiers.md).",
    ),
    "transforms": (
        "Transformations",
        "The sets t_0 .. t_{M-1} of SLA. `--transforms NAME`; what they do to labels: [the mathematics](mathematics.md). Quarter "
        "turns are counter-clockwise; channels `GBR` are the green, blue and red of the image, in this order.",
    ),
}
_TABLES = {
    "losses": {"reweightings": "Class weights, `--reweight`", "samplers": "Re-sampling, `--sampler`"}
    | {"mixings": "Mixing, `--mix`"},
    "heads": {"learners": "Learners, `--learner`"},
    "transforms": {"objectives": "Objectives, `--objective`"},
}


def pages() -> dict[str, str]:
    """Markdown by the file name that a page has beside those of `docs/`."""
    made = {f"{kind}.md": _registered(kind) for kind in _KINDS}
    return {"datasets.md": _datasets(), **made, "published-recipes.md": _recipes(), "commands.md": _commands()}


def _cell(text: object) -> str:
    """`text` within a table: one line, no column of its own."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("*", "\\*")


def _table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(headings), *([_cell(value) for value in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return _table(("property", "value"), [(heading, text) for heading, text in facts if text])


def _registered(kind: str) -> str:
    title, opening = _KINDS[kind]
    entries = [entry for entry in REGISTRIES[kind] if entry.built_in]
    parts = [f"# {title}", opening, _table(("name", "what it is"), [(f"`{e.name}`", e.summary) for e in entries])]
    for plural, heading in _TABLES.get(kind, {}).items():
        parts += [f"## {heading}", _table(("name", "what it is"), [(f"`{n}`", s) for n, s in names_of(plural).items()])]
    for entry in entries:
        facts = []
        for heading, text in listing._registered(kind, entry.name)[1:]:
            if heading != "from":
                facts.append((heading, f"`{text}`" if heading in ("use", "code") else text))
        parts += [f"## {entry.name}", _facts(facts)]
    return "\n\n".join(parts) + "\n"


def _datasets() -> str:
    entries = [DATASETS.get(entry.name) for entry in DATASETS if entry.origin == BUILT_IN]  # none of the user's own
    rows = [
        (
            f"`{e.name}`",
            "few-shot" if e.fewshot else "classes",
            f"{e.image_size} x {e.image_size}",
            e.n_classes,
            e.summary,
        )
        for e in entries
    ]
    parts = [
        "# Data sets",
        "`--dataset NAME`; how to get or import them, and how they are stored: [data](data.md).",
        _table(("name", "kind", "pixels", "classes", "what it is"), rows),
    ]
    for e in entries:
        if e.embedded:
            origin = "made on this machine at first use, offline"
        elif e.downloadable:
            origin = f"`slabench data get {e.store}`"
        else:
            origin = f"`slabench data import {e.store} PATH`; slabench does not download it"
        facts = [
            ("what it is", e.summary),
            ("images", f"{e.n_published:,}, " * bool(e.n_published) + f"{e.image_size} x {e.image_size} RGB"),
            ("source", e.source),
            ("licence", e.licence),
            ("here by", origin),
            ("store", f"`{e.store}`" + (", of which it is a view" if e.store != e.name else "")),
            ("normalisation", f"mean {_triple(e.mean)}, std {_triple(e.std)}, in units of 0..255"),
            ("mirroring", "" if e.mirror else "never: a mirrored image may be of another class"),
            ("note", e.note),
            ("digest", f"`{e.digest}`" if e.digest else ""),
        ]
        if e.fewshot:
            split = load_split(e.name)
            facts += [("split", split.source), ("split digest", f"`{split.digest}`")]
            facts += [(f"{part} ({len(names)})", ", ".join(names)) for part, names in split.classes.items()]
        elif e.classes:
            facts.append((f"classes ({len(e.classes)})", ", ".join(e.classes)))
        if not e.embedded:
            facts += [("import from" if not n else "", layout) for n, layout in enumerate(layouts(e))]
        parts += [f"## {e.name}", _facts(facts)]
    return "\n\n".join(parts) + "\n"


def _triple(values: Iterable[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _recipes() -> str:
    parts = [
        "# Published recipes",
        "`slabench run NAME`; keys, flags and presets: [recipes](recipes.md). Settings are shown with every default filled in; "
        "the digest is what a record calls `recipe_digest`.",
    ]
    rows = []
    sections: list[str] = []
    for name in recipe_names():
        source = (paths.benchmarks() / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        recipes = load_recipe(name)
        words = _comment(source)
        rows.append((f"[`{name}`](#{_anchor(name)})", len(recipes), words))
        sections += [
            f"## {name}",
            words,
            f"    slabench run {name} --dry-run",
            "As it is written:",
            _fence(source, "toml"),
        ]
        if len(recipes) > 1:
            rest = [(f"`{r.name.removeprefix(name + '/')}`", f"`{r.digest[:12]}`") for r in recipes]
            sections += [_table(("variant", "digest"), rest)]
        first = recipes[0]
        resolved = _fence(_toml(first.resolved()), "toml")
        heading = f'??? note "All settings of {first.name}, digest {first.digest[:12]}"'
        sections += [heading, "\n".join(f"    {line}" for line in resolved.splitlines())]
    return "\n\n".join([*parts, _table(("recipe", "trials a seed", "what it is"), rows), *sections]) + "\n"


def _comment(source: str) -> str:
    """The comment that a TOML file opens with, as one paragraph."""
    lines = []
    for line in source.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).strip()


def _anchor(name: str) -> str:
    return name.replace("/", "")


def _fence(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def _toml(values: Mapping[str, Any]) -> str:
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, settings in values.items():
        if isinstance(settings, dict):
            plain += ["", f"[{section}]"]
            # TOML has no null: a key that is left out is one.
            plain += [
                f"{key} = {json.dumps(value)}" if value is not None else f"# {key}: as evaluated"
                for key, value in settings.items()
            ]
    return "\n".join(plain)


def _commands() -> str:
    parts = [
        "# Commands",
        "`slabench --help` and `slabench COMMAND --help` say the same. What the commands are for: [quick start](quick-start.md).",
    ]
    root = cast(Group, get_command(app)).load_all()
    return "\n\n".join([*parts, *_command(root, "slabench")]) + "\n"


def _command(command: Any, name: str) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = f"    {name} {' '.join(command.collect_usage_pieces(context))}"
    parts = [f"## {name}", usage, *_help(command.help or "")]
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name in ("install_completion", "show_completion", "help"):
            continue
        names = ", ".join(f"`{n}`" for n in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{(parameter.metavar or parameter.name).upper()}`".replace("|", "` or `")
        default = parameter.default
        shown = "" if default in (None, False, True, (), []) or callable(default) else f" (default `{default}`)"
        rows.append((names, f"{getattr(parameter, 'help', '') or ''}{shown}"))
    if rows:
        parts.append(_table(("option", "what it does"), rows))
    for child, sub in sorted(getattr(command, "commands", {}).items()):
        parts += _command(sub, f"{name} {child}")
    return parts


def _help(text: str) -> list[str]:
    """Paragraphs of a command's help; one that is marked to be printed as it stands (`\\b`) is code."""
    parts = []
    for paragraph in text.split("\n\n"):
        mark, _, rest = paragraph.strip("\n").partition("\b")
        if _ and not mark.strip():
            parts.append("\n".join(f"    {line.strip()}" for line in rest.strip().splitlines()))
        else:
            parts.append(" ".join(paragraph.split()))
    return parts


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for page, text in pages().items():
        write_bytes(folder / page, text.encode())
