"""The two commands that stand at the end of a run: they are typed here as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from processes import here
from result_records import digest, make_recipe, make_record

from slabench.cli.after import next_commands
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.runner.trials import Outcome

ACCURACIES = {"single": [0.5, 0.7, 0.6], "aggregated": [0.6, 0.7, 0.7]}


def outcome(root: Path, name: str, objective: str, state: Any = "ran", **more: Any) -> Outcome:
    recipe = make_recipe(name=name, sla__objective=objective)
    values = {"recipe": recipe, "recipe_digest": digest(recipe), "key": digest(name, objective)} | more
    made: RunRecord | None = make_record(objective, 0, ACCURACIES, name=name, **values)
    assert made is not None
    key = made.key
    if state in ("ran", "skipped"):
        ResultStore(root).save(made, ACCURACIES)
    elif state == "failed":
        failed = {"status": "failed", "error": "it broke", "scores": [], "cost": None, "selection": None}
        ResultStore(root).save(make_record(objective, 0, ACCURACIES, name=name, **values, **failed), {})
        made = None
    else:
        made = None
    return Outcome(cast(Any, SimpleNamespace(key=key)), state, made)


def typed(root: Path, *outcomes: Outcome) -> list[str]:
    """The commands, each of which has been typed in another folder and has worked."""
    commands = next_commands(outcomes, root)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "slabench"
        code, printed = here(*words[1:], folder=root.parent)
        assert code == 0, f"{command}: {printed}"
    return [command.replace(f" --results {shlex.quote(str(root))}", "") for command in commands]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my results"


def test_a_baseline_and_sla_are_compared(root: Path) -> None:
    both = [outcome(root, "fewshot/controls/baseline", "baseline"), outcome(root, "fewshot/controls/sla", "sla")]
    assert typed(root, *both) == [
        "slabench leaderboard --protocol fewshot/fc100/5w5s15q",
        "slabench compare controls/sla controls/baseline --protocol fewshot/fc100/5w5s15q",
    ]


def test_the_other_one_may_be_of_an_earlier_run(root: Path) -> None:
    outcome(root, "fewshot/controls/baseline", "baseline")
    assert typed(root, outcome(root, "fewshot/controls/sla", "sla"))[1].startswith("slabench compare controls/sla ")


def test_recipes_of_one_name_are_compared_by_their_keys(root: Path) -> None:
    outcome(root, "fewshot/standard", "baseline")
    keys = [digest("fewshot/standard", objective)[:12] for objective in ("sla", "baseline")]
    assert typed(root, outcome(root, "fewshot/standard", "sla"))[1] == (
        f"slabench compare {keys[0]} {keys[1]} --protocol fewshot/fc100/5w5s15q"
    )


def test_one_recipe_alone_is_shown_and_quick_runs_are_asked_for(root: Path) -> None:
    alone = outcome(root, "fewshot/quick", "da", limited=True)
    assert typed(root, alone) == [
        "slabench leaderboard --protocol fewshot/fc100/5w5s15q --include-quick",
        f"slabench show run {digest('fewshot/quick', 'da')[:12]}",
    ]


def test_what_failed_comes_first(root: Path) -> None:
    done, failed = outcome(root, "fewshot/a", "baseline"), outcome(root, "fewshot/b", "sla", "failed")
    shown = f"slabench show run {digest('fewshot/b', 'sla')[:12]}"
    assert typed(root, done, failed) == [shown, "slabench leaderboard --protocol fewshot/fc100/5w5s15q"]
    busy = outcome(root, "fewshot/c", "sla", "busy")
    assert typed(root, failed, busy) == [shown, "slabench status"]
    assert typed(root, busy, done) == ["slabench status", "slabench leaderboard --protocol fewshot/fc100/5w5s15q"]
