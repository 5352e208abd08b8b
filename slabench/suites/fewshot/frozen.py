"""The record of a head on the features of a frozen network: its recipe, its keys, and all that is not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from slabench import plugins
from slabench.core.code_digest import code_of
from slabench.core.files import digest_json
from slabench.core.registry import HEADS
from slabench.core.versions import HEAD_REVISIONS
from slabench.embedders.store import FeatureSet
from slabench.records.environment import describe
from slabench.records.record import Cost, RunRecord, Score, Selection
from slabench.suites.fewshot.head_selection import FIXED, named

FROZEN = "frozen"
"""What such records call their learner and objective: nothing is trained."""


def record_name(suite: str, name: str, head: str) -> str:
    """The name of the records of a head on a feature set."""
    return f"{suite}/{FROZEN}/{name}+{head}"


class FrozenRecord:
    """What is recorded of a head on features.

    Args:
        suite: `fewshot` or `allclasses`.
        test: features of the test; facts of the network are taken from them.
        head: a registered name.
        dataset: that the record is of.
        protocol: the section of the recipe that says what is scored.
        facts: fields of the record that say on what was scored, `protocol_digest` among them.
        warnings: lines for the record.
        features: digest of all features that decide the scores, but for those that centre.
        centre: digest of the features by which a centred head centres; None where it has none.
        device: where it is scored.
        seed: of a draw of supports; None where nothing is drawn.
        selection: what decides the head's own parameter (`slabench.suites.fewshot.head_selection`); None where it is fixed.
    """

    def __init__(
        self,
        suite: str,
        test: FeatureSet,
        head: str,
        *,
        dataset: str,
        protocol: Mapping[str, Any],
        facts: Mapping[str, Any],
        warnings: Sequence[str],
        features: str,
        centre: str | None,
        device: torch.device,
        seed: int | None = None,
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        self.suite, self.test, self.head, self.dataset = suite, test, head, dataset
        self.facts, self.warnings, self.features, self.device, self.seed = facts, warnings, features, device, seed
        revision = HEAD_REVISIONS.get(head, 1)
        entry = HEADS.entry(head)
        self.code: list[dict[str, str]] = []
        if not entry.built_in:
            code = code_of(HEADS, entry)
            told = {"kind": HEADS.kind, "name": head, "origin": entry.origin, "sha256": code.sha256}
            self.code = [told | ({"unknown": code.unknown} if code.unknown else {})]
        model: dict[str, Any] = {"learner": FROZEN, "embedder": test.name, "head": head}
        if selection is not None:
            model["head_selection"] = dict(selection)
        self.name = record_name(suite, test.name, named(head, selection["rule"] if selection else FIXED))
        self.recipe: dict[str, Any] = {
            "suite": suite,
            "limited": False,
            "data": {"dataset": dataset},
            "protocol": dict(protocol),
            "model": model | ({"head_revision": revision} if revision > 1 else {}),
            "sla": {"objective": FROZEN, "transforms": test.manifest.transforms},
        }
        known = test.embedder.plain()
        self.recipe_digest = plugins.bound(digest_json({"recipe": self.recipe, "embedder": known}), self.code)
        key = frozen_key(self.recipe, known, features, centre, facts["protocol_digest"], seed)
        self.key = plugins.bound(key, self.code)

    def outdated(self, kept: RunRecord) -> bool:
        """Never: the key holds the digest of the features."""
        return False

    def record(
        self, scores: list[Score], seconds: float, transductive: bool, started: datetime, argv: Sequence[str]
    ) -> RunRecord:
        """With these scores, which took so long, of a head that looks at other queries or does not."""
        environment = describe(self.device) | ({"plugins": self.code} if self.code else {})
        return RunRecord.model_validate(
            {
                "key": self.key,
                "name": self.name,
                "recipe": self.recipe,
                "recipe_digest": self.recipe_digest,
                "seed": self.seed or 0,
                "suite": self.suite,
                "dataset": self.dataset,
                **self.facts,
                "embedder": self.test.embedder.plain() | {"features": self.features},
                "scores": [score.model_dump() for score in scores],
                "selection": Selection(rule="last", step=0).model_dump(),
                "transductive": transductive,
                "warnings": list(self.warnings),
                "cost": Cost(
                    train_seconds=0,
                    eval_seconds=round(seconds, 3),
                    images_seen=0,
                    steps=0,
                    episodes=0,
                    parameters=0,
                ).model_dump(),
                "environment": environment,
                "started": started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "status": "done",
                "argv": list(argv),
            }
        )


def frozen_key(
    recipe: Mapping[str, Any],
    embedder: Mapping[str, Any],
    features: str,
    centre: str | None,
    protocol: str,
    seed: int | None = None,
) -> str:
    """The key of a head on frozen features, without the code of plug-ins.

    Args:
        recipe: as in the record.
        embedder: its facts, without the digest of the features.
        features: digest of the features.
        centre: digest of the features by which a centred head centres; None where it has none.
        protocol: digest of the protocol.
        seed: of a draw of supports; None where nothing is drawn.
    """
    bytes_of = {"test": features, "centre": centre, "protocol": protocol}
    drawn = {} if seed is None else {"seed": seed}
    return digest_json({"recipe": dict(recipe), "embedder": dict(embedder), "features": bytes_of, **drawn})
