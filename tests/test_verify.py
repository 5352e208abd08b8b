"""`slabench verify` on shipped records, and on copies of them with one lie each."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from handed_in import Record, copied
from typer.testing import CliRunner

from slabench.cli.verify import verify as command
from slabench.core import paths
from slabench.core.errors import DataMissingError, UsageError
from slabench.core.files import digest_json
from slabench.records.record import protocol_digest
from slabench.runner.verification import record_files, verify
from slabench.suites import classifier

APP = typer.Typer()
APP.command()(command)
RUNS = paths.shipped_results() / "runs"
FEWSHOT = "fewshot/fewshot-fc100-5w5s15q"


def shipped(place: str, derived: bool) -> Path:
    """The first shipped record in that folder that was trained, or derived."""
    for path in sorted((RUNS / place).rglob("seed*-*.json")):
        if (json.loads(path.read_text()).get("derived") is not None) == derived:
            return path
    raise AssertionError(f"no such record in {place}")


def states(path: Path) -> dict[str, str]:
    (found,) = verify([path])
    return {line.check: line.state for line in found.lines}


@pytest.mark.parametrize("derived", [False, True])
def test_a_shipped_record_passes_every_check(derived: bool, tmp_path: Path) -> None:
    path = copied(shipped(FEWSHOT, derived), tmp_path)
    assert set(states(path).values()) == {"ok"}


@pytest.mark.parametrize(("head", "key"), [("protonet", "ok"), ("simpleshot", "unchecked")])
def test_a_head_on_frozen_features_is_held_to_its_network(head: str, key: str, tmp_path: Path) -> None:
    source = shipped(f"{FEWSHOT}/fewshot-frozen-efficientnet-lite0-128-plain-{head}", False)
    assert set(states(copied(source, tmp_path)).values()) == {"ok"}

    def other(record: Record, folder: Path) -> None:
        record["embedder"]["weights_sha256"] = "0" * 64

    lied = states(copied(source, tmp_path, other))
    assert (lied.pop("recipe"), lied.pop("key")) == ("wrong", "wrong" if key == "ok" else key)
    assert set(lied.values()) == {"ok"}


@pytest.mark.parametrize("place", ["imbalanced", "supervised"])
def test_the_key_of_a_classifier_needs_its_images(place: str, tmp_path: Path) -> None:
    found = states(copied(shipped(place, False), tmp_path))
    assert found.pop("key") == "unchecked"
    assert set(found.values()) == {"ok"}


def test_images_that_are_not_here_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def missing(recipe: Any) -> None:
        asked.append(recipe.data.dataset)
        raise DataMissingError("cifar100 is not here", "slabench data get cifar100")

    monkeypatch.setattr(classifier, "prepare", missing)
    places = [tmp_path / str(number) for number in range(3)]
    for place, suite in zip(places, ("imbalanced", "supervised", "imbalanced"), strict=True):
        place.mkdir()
        copied(shipped(suite, False), place)
    verdicts = list(verify(record_files([tmp_path])))
    assert [line.state for verdict in verdicts for line in verdict.lines if line.check == "key"] == ["unchecked"] * 3
    assert asked == ["cifar100"]


def _new_side(record: Record, folder: Path, values: dict[str, np.ndarray]) -> None:
    """Other accuracies under a right digest."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **values)
    (folder / record["side_file"]).unlink()
    record["side_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / record["side_file"]).write_bytes(buffer.getvalue())


def _arrays(record: Record, folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / record["side_file"]) as file:
        return dict(file)


def better(r: Record, folder: Path) -> None:
    r["scores"][0]["value"] += 0.001


def narrower(r: Record, folder: Path) -> None:
    r["scores"][0]["ci95"] /= 2


def better_episodes(r: Record, folder: Path) -> None:
    _new_side(r, folder, {name: np.minimum(x + np.float32(1 / 75), 1) for name, x in _arrays(r, folder).items()})


def smooth_episodes(r: Record, folder: Path) -> None:
    """Accuracies that no number of right queries gives, of the same mean."""
    arrays = _arrays(r, folder)
    for x in arrays.values():
        x[0::2] += 0.001
        x[1::2] -= 0.001
    _new_side(r, folder, arrays)


def no_side(r: Record, folder: Path) -> None:
    (folder / r["side_file"]).unlink()


def torn_side(r: Record, folder: Path) -> None:
    (folder / r["side_file"]).write_bytes(b"torn")


def fewer_predictors(r: Record, folder: Path) -> None:
    del r["scores"][1]


def worst_class(r: Record, folder: Path) -> None:
    r["scores"][0]["worst_class"] += 0.1


def other_protocol(r: Record, folder: Path) -> None:
    r["protocol"] = r["protocol"].replace("5w5s", "5w1s")


def easy_episodes(r: Record, folder: Path) -> None:
    r["episodes_digest"] = "0" * 64
    digests = {name: r[name] for name in ("dataset_digest", "split_digest", "episodes_digest")}
    r["protocol_digest"] = protocol_digest(r["protocol"], r["protocol_version"], **digests)


def other_images(r: Record, folder: Path) -> None:
    r["dataset_digest"] = "1" * 64


def retold_recipe(r: Record, folder: Path) -> None:
    r["recipe"]["train"]["steps"] -= 1


def retold_recipe_with_its_digest(r: Record, folder: Path) -> None:
    r["recipe"]["train"]["steps"] -= 1
    r["recipe_digest"] = digest_json({name: value for name, value in r["recipe"].items() if name != "name"})


def other_seed(r: Record, folder: Path) -> None:
    r["seed"] += 1


def no_torch(r: Record, folder: Path) -> None:
    del r["environment"]["torch"]


def failed(r: Record, folder: Path) -> None:
    r |= {"status": "failed", "error": "x"}


def unknown_field(r: Record, folder: Path) -> None:
    r["bonus"] = 1


LIES: list[tuple[Callable[[Record, Path], None], str]] = [
    (better, "accuracy and interval"),
    (narrower, "accuracy and interval"),
    (better_episodes, "accuracy and interval"),
    (smooth_episodes, "counts"),
    (no_side, "side file"),
    (torn_side, "side file"),
    (fewer_predictors, "side file"),
    (worst_class, "counts"),
    (other_protocol, "protocol"),
    (easy_episodes, "episodes"),
    (other_images, "images and split"),
    (retold_recipe, "recipe"),
    (retold_recipe_with_its_digest, "key"),
    (other_seed, "key"),
    (no_torch, "environment"),
    (failed, "finished"),
    (unknown_field, "record"),
]


@pytest.mark.parametrize(("lie", "check"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_is_found_by_its_check(lie: Callable[[Record, Path], None], check: str, tmp_path: Path) -> None:
    assert states(copied(shipped(FEWSHOT, False), tmp_path, lie))[check] == "wrong"


def test_a_derived_record_is_tied_to_its_head_and_its_trial(tmp_path: Path) -> None:
    def other_head(r: Record, folder: Path) -> None:
        r["derived"]["head"] = "logistic" if r["derived"]["head"] != "logistic" else "cosine"

    def other_trial(r: Record, folder: Path) -> None:
        r["derived"]["of"] = "2" * 64

    source = shipped(FEWSHOT, True)
    assert states(copied(source, tmp_path, other_head))["key"] == "wrong"
    assert states(copied(source, tmp_path, other_trial))["key"] == "unchecked"


def test_what_is_printed_and_the_exit_codes(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    path = copied(shipped(FEWSHOT, False), good)
    copied(shipped(FEWSHOT, False), bad, better)
    one = CliRunner().invoke(APP, [str(path)])
    assert one.exit_code == 0, one.output
    assert len([line for line in one.output.splitlines() if line.startswith("ok ")]) == 14
    both = CliRunner().invoke(APP, [str(tmp_path)])
    assert both.exit_code == 1
    assert "1 of 2 records fail" in both.output
    assert "the side file gives" in " ".join(both.output.split())
    told = json.loads(CliRunner().invoke(APP, [str(tmp_path), "--json"]).output)
    assert [one["ok"] for one in told] == [False, True]
    assert {line["check"] for line in told[0]["checks"] if line["state"] == "wrong"} == {"accuracy and interval"}


def test_what_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no records"):
        record_files([tmp_path])
    with pytest.raises(UsageError, match=r"nothing\.json is not here"):
        record_files([tmp_path / "nothing.json"])
    cut = tmp_path / "seed0-abc.json"
    cut.write_text(shipped(FEWSHOT, False).read_text()[:100])
    assert states(cut) == {"record": "wrong"}
