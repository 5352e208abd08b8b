"""The commands by group, each with a line and an example; what a command needs is imported when it is typed.

`slabench --help` reads this table alone, so that it takes as long with many commands as with one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command, get_group


@dataclass(frozen=True)
class Verb:
    """A command, or a group of them.

    Attributes:
        name: as typed.
        panel: of `slabench --help`.
        target: "module:attribute" in `slabench.cli`: a function with typer's annotations, or a `typer.Typer`.
        says: one line.
        example: a command that can be typed.
    """

    name: str
    panel: str
    target: str
    says: str
    example: str

    @property
    def short_help(self) -> str:
        """Two lines of `slabench --help`."""
        return f"{self.says}\n[dim]{self.example}[/dim]"

    def load(self) -> TyperCommand | TyperGroup:
        """The command itself, imported now."""
        module, _, name = self.target.partition(":")
        found = getattr(import_module(f"slabench.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            command: Any = get_group(found)
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
            app.command(self.name)(found)
            command = get_command(app)
        command.name, command.short_help, command.rich_help_panel = self.name, self.short_help, self.panel
        if not re.search(rf"^\W*slabench {self.name} ", command.help or "", re.MULTILINE):
            command.epilog = f"Example: {self.example}"
        return command  # type: ignore[no-any-return]


_RUN, _LOOK, _DATA, _OWN = "Run", "Look", "Data", "Own methods"
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "demo", _RUN, "demo:demo", "Baseline against SLA on drawn characters, offline: a minute.", "slabench demo"
        ),
        Verb(
            "run",
            _RUN,
            "run:run",
            "Train and score what a recipe says; nothing is run twice.",
            "slabench run fewshot --dataset fc100 --shots 5 --sla",
        ),
        Verb(
            "reproduce",
            _RUN,
            "reproduce:reproduce",
            "A published table, row by row, beside its printed numbers.",
            "slabench reproduce sla2020/few-shot --dry-run",
        ),
        Verb(
            "score",
            _RUN,
            "score:score",
            "Every few-shot head on a trained backbone, without training.",
            "slabench score KEY --heads protonet,logistic",
        ),
        Verb(
            "posthoc",
            _RUN,
            "score:posthoc",
            "Post-hoc methods on a trained classifier.",
            "slabench posthoc KEY",
        ),
        Verb(
            "status",
            _RUN,
            "status:status",
            "What is queued, running, stopped, failed and done in a folder.",
            "slabench status --watch",
        ),
        Verb(
            "doctor",
            _RUN,
            "doctor:doctor",
            "What this machine has and can run, and what is broken.",
            "slabench doctor",
        ),
        Verb(
            "list",
            _LOOK,
            "listing:list_",
            "What there is: data sets, recipes, heads, losses, runs, ...",
            "slabench list datasets",
        ),
        Verb(
            "show",
            _LOOK,
            "listing:show",
            "One of them: a recipe resolved, a run, a head and its code.",
            "slabench show head protonet",
        ),
        Verb(
            "leaderboard",
            _LOOK,
            "leaderboard:leaderboard",
            "Every recipe ranked, protocol by protocol, from records alone.",
            "slabench leaderboard --dataset fc100 --top 3",
        ),
        Verb(
            "compare",
            _LOOK,
            "compare:compare",
            "Is A better than B on the same test, and than its controls?",
            "slabench compare controls/sla controls/baseline",
        ),
        Verb(
            "report",
            _LOOK,
            "report:report",
            "One HTML page of everything that the records say.",
            "slabench report -o report.html",
        ),
        Verb(
            "verify",
            _LOOK,
            "verify:verify",
            "Records held against their files and the frozen episodes.",
            "slabench verify results/runs",
        ),
        Verb("plot", _LOOK, "report:plot", "One figure of it.", "slabench plot summary -o summary.png"),
        Verb("data", _DATA, "data:app", "Bring data sets here; check what is here.", "slabench data get cifar100"),
        Verb(
            "episodes",
            _DATA,
            "episodes:app",
            "Freeze test episodes, check them, read them.",
            "slabench episodes make fc100 --shots 5",
        ),
        Verb(
            "longtail",
            _DATA,
            "longtail:app",
            "Freeze long-tail subsets, check them, read them.",
            "slabench longtail make --dataset cifar100 --ratio 50",
        ),
        Verb(
            "embed",
            _DATA,
            "embed:embed",
            "Images through a frozen pre-trained network, once.",
            "slabench embed --model timm:NAME --dataset fc100",
        ),
        Verb(
            "features",
            _DATA,
            "features:app",
            "Your own features: bring them in, list them, take them out.",
            "slabench features list",
        ),
        Verb(
            "check",
            _OWN,
            "check:check",
            "Hold a head, backbone, loss, ... against what slabench relies on.",
            "slabench check my_head.py",
        ),
    )
}


class Group(TyperGroup):
    """The app's commands, known by `VERBS` until one is typed; `--plugin FILE` may stand among the command's own options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            verb.name: TyperCommand(verb.name, short_help=verb.short_help, rich_help_panel=verb.panel)
            for verb in VERBS.values()
        }

    def load_all(self) -> Group:
        """Import every command, for whoever reads their options; the group itself."""
        self.commands = {verb.name: verb.load() for verb in VERBS.values()}
        return self

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is typed, imported now."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and command.name in VERBS:
            command = self.commands[command.name] = VERBS[command.name].load()
            _say_plainly(command, ctx)
        return name, command, rest

    def get_params(self, ctx: Any) -> list[Any]:
        """The options before the command."""
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring every `--plugin FILE` to the front."""
        end = args.index("--") if "--" in args else len(args)
        front: list[str] = []
        rest: list[str] = []
        words = iter(args[:end])
        for word in words:
            if word == "--plugin":
                value = next(words, None)
                if value is None:
                    ctx.fail("Option '--plugin' requires an argument: a Python file.")
                else:
                    front += [word, value]
            elif word.startswith("--plugin="):
                front.append(word)
            else:
                rest.append(word)
        return super().parse_args(ctx, [*front, *rest, *args[end:]])


_WORDS = {bool: "", int: "N", float: "X", Path: "PATH"}
"""What stands for a value in help texts, by type; anything else is TEXT."""


def _say_plainly(command: Any, ctx: Any) -> None:
    """Take Python's types out of the help of a command and of those below it."""
    params = _without_types(command.get_params(ctx))
    # The panel of --help would otherwise stand before those of a command whose options have panels.
    panels = [param.rich_help_panel for param in params if getattr(param, "rich_help_panel", None)]
    if panels and "--help" in params[-1].opts:
        params[-1].rich_help_panel = panels[-1]
    for below in getattr(command, "commands", {}).values():
        _say_plainly(below, ctx)


def _without_types(params: list[Any]) -> list[Any]:
    """The same parameters, which say `N` or `PATH` where typer says `<int>` or `<list[Path]>`."""
    for param in params:
        described = getattr(param, "type_descriptor", None)  # of typer 0.27 and later
        if described is None:
            continue
        kind = described.annotation
        word = _WORDS.get(kind.__args__[0] if described.is_list else kind, "TEXT")
        if not isinstance(param, TyperOption):
            param.display_type_rich = lambda ctx: ""  # an argument's name says what it is
        elif param.metavar is None:
            param.metavar = word
    return params
