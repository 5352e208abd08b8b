"""What counts as the same model, the same budget and a control, on rows made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from result_records import digest, make_record

from slabench.comparison.controls import baselines, controls, equal_images_seen, gains, same_views
from slabench.ranking.entries import Entry


def entry(
    objective: str = "baseline", passes: int = 100_000, predictor: str = "single", value: float = 0.5, **parts: Any
) -> Entry:
    """One seed; `parts` are sections of the recipe."""
    record = make_record(objective, 0, {predictor: [value]}, images_seen=passes, limited=parts.pop("limited", False))
    recipe = {**record.recipe, **parts}
    return Entry(
        (record.model_copy(update={"recipe": recipe, "recipe_digest": digest(recipe, passes)}),), predictor, None
    )


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"train": {"steps": 400}}, True),
        ({"name": "another"}, True),
        ({"select": {"rule": "best_val"}}, True),
        ({"model": {"backbone": "resnet12", "head": "protonet"}}, False),
        ({"model": {"backbone": "conv4", "head": "ridge"}}, False),
        ({"model": {"backbone": "conv4", "head": "protonet", "learner": "classifier"}}, False),
        ({"loss": {"name": "ldam"}}, False),
        ({"balance": {"reweight": "drw"}}, False),
        ({"balance": {"sampler": "sqrt"}}, False),
        ({"mix": {"name": "mixup"}}, False),
        ({"augment": {"policy": "autoaugment"}}, False),
        ({"posthoc": {"method": "crt"}}, False),
        ({"limited": True}, False),
    ],
)
def test_one_model(other: dict[str, Any], same: bool) -> None:
    method, baseline = entry("sla"), entry(**other)
    assert (method.model == baseline.model) == same
    assert baselines(method, [method, baseline]) == ([baseline] if same else [])


def test_equal_images_seen_are_within_a_percent() -> None:
    assert equal_images_seen(100_000, 99_000)
    assert equal_images_seen(99_000, 100_000)
    assert not equal_images_seen(100_000, 98_999)
    assert equal_images_seen(0, 0)
    assert not equal_images_seen(0, 100)


def test_only_aggregation_takes_more_than_one_view() -> None:
    assert [same_views(name) for name in ("single", "aggregated", "distilled")] == ["single", "aggregated", "single"]


def test_a_stale_entry_neither_has_controls_nor_is_one() -> None:
    def aged(own: Entry) -> Entry:
        return Entry((own.records[0].model_copy(update={"protocol_version": 99}),), own.predictor, None)

    method, once = entry("sla"), entry()
    assert controls(method, [method, once]) == [("baseline", once)]
    assert controls(method, [method, aged(once)]) == []
    assert controls(aged(method), [aged(method), once, aged(once)]) == []
    assert gains([aged(method), aged(once), once], None) == []


def test_the_controls_of_a_method() -> None:
    """Trained by the same schedule, with one view and with as many; and the better predictor where images seen are equal."""
    longer: dict[str, Any] = {"passes": 401_000, "train": {"steps": 400}}
    method = entry("sla", 400_000, "aggregated")
    once, often = entry(), entry(predictor="aggregated", value=0.55)
    equal, better = entry(value=0.6, **longer), entry(predictor="aggregated", value=0.7, **longer)
    middle = entry(passes=200_000, train={"steps": 200})
    group = [better, equal, middle, method, often, once, entry("da", 400_000)]
    assert controls(method, group) == [("baseline", once), ("aggregated", often), ("equal images seen", better)]
    assert controls(method, [method, middle, equal]) == [("baseline", middle), ("equal images seen", equal)], (
        "the cheapest"
    )
    assert controls(method, [method, entry("da", 400_000)]) == []
