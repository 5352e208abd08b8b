"""Schedules in closed form, the optimiser, the loop's bookkeeping, and checkpoints that are damaged or not ours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from line_task import Line
from torch import Tensor, nn

from slabench.core.errors import DataError, IntegrityError, SlabenchError, UsageError
from slabench.recipes import load_recipe
from slabench.recipes.base import OptimizerName
from slabench.recipes.fewshot import Select, Train
from slabench.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from slabench.training.device import bfloat16_pays, choose_device, choose_precision
from slabench.training.loop import fit
from slabench.training.schedule import OPTIMIZERS, Resolved, build_optimizer, learning_rate


def test_cosine_is_torchs() -> None:
    train = Train(steps=50, lr=0.3, schedule="cosine")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for step in range(50):
        assert learning_rate(train, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warm_up_climbs_in_stairs() -> None:
    """LDAM-DRW's `adjust_learning_rate`: in the first five epochs (from 1) the rate is lr * epoch / 5."""
    train = Resolved(50, "sgd", 0.1, 0.9, False, 2e-4, "constant", (), (), (5, 4))
    theirs = [0.1 * (step // 4 + 1) / 5 if step < 20 else 0.1 for step in range(50)]
    assert [learning_rate(train, step) for step in range(50)] == pytest.approx(theirs)


def test_constant_is_constant() -> None:
    assert {learning_rate(Train(steps=9, lr=0.1, schedule="constant"), step) for step in range(9)} == {0.1}


def test_the_papers_steps_are_metaoptnets() -> None:
    """Their LambdaLR steps before each of 60 epochs: 1.0 below epoch 20, 0.06 below 40, 0.012 below 50, then 0.0024."""
    (recipe,) = load_recipe("fewshot/paper")
    weight = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    factor = lambda e: 1.0 if e < 20 else (0.06 if e < 40 else 0.012 if e < 50 else 0.0024)  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=factor)
    assert recipe.train.steps == 60_000
    for epoch in range(60):
        optimizer.step()
        scheduler.step()  # as in their loop, at the beginning of the epoch
        for step in (epoch * 1000, epoch * 1000 + 999):
            assert learning_rate(recipe.train, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_optimisers_are_the_recipes() -> None:
    module = nn.Linear(2, 2)
    adam = build_optimizer(Train(optimizer="adam", weight_decay=0.1), module)
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["weight_decay"] == 0.1
    sgd = build_optimizer(Train(optimizer="sgd", momentum=0.8), module)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.8, True)


def test_a_watched_test_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best validation is the second of five; the test would choose the last."""
    task = Line([0.3, 0.9, 0.2, 0.1, 0.0])
    monkeypatch.setattr(task, "watch", lambda: {"single": task.validations / 10})
    fitted = fit(task, Train(steps=10, lr=0.05), Select(points=5, rule="best_val"), "k")
    assert fitted.selected_step == 4
    assert [point["test"]["single"] for point in fitted.progress.curve] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_without_validation_images_the_last_step_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Line()
    monkeypatch.setattr(task, "validate", dict)
    fitted = fit(task, Train(steps=10, lr=0.05), Select(points=5), "k")
    assert fitted.selected_step == 10
    assert [point["val"] for point in fitted.progress.curve] == [{}] * 5


def test_the_loop_keeps_books() -> None:
    task = Line()
    fitted = fit(task, Train(steps=10, lr=0.05, schedule="constant"), Select(points=2), "k")
    assert task.steps == list(range(10))
    assert task.module.training
    progress = fitted.progress
    assert (progress.step, progress.images_seen, fitted.selected_step) == (10, 40, 10)
    assert [point["step"] for point in progress.curve] == [5, 10]
    # Train accuracies of a point are means since the point before: 0..4 and 5..9 hundredths.
    assert [point["train_accuracy"] for point in progress.curve] == pytest.approx([0.02, 0.07])
    assert progress.curve[1]["loss"] < progress.curve[0]["loss"]

    # The same updates by hand.
    reference = Line()
    optimizer = torch.optim.Adam(reference.module.parameters(), lr=0.05)
    for step in range(10):
        optimizer.zero_grad()
        reference.step(step).loss.backward()
        optimizer.step()
    for got, expected in zip(task.module.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("rule", "step"), [("best_val", 4), ("last", 10)])
def test_selection(rule: str, step: int) -> None:
    # The best is at the second of five validations; a tie later does not replace it.
    task = Line(values=[0.2, 0.8, 0.5, 0.8, 0.1])
    fitted = fit(task, Train(steps=10, lr=0.05), Select(points=5, rule=rule), "k")  # type: ignore[arg-type]
    assert fitted.selected_step == step
    alone = Line()
    fit(alone, Train(steps=10, lr=0.05), Select(points=0), "k")
    same = all(torch.equal(a, b) for a, b in zip(task.module.parameters(), alone.module.parameters(), strict=True))
    assert same == (rule == "last")


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(SlabenchError, match=r"no longer finite at step \d+\n.*train\.lr"):
        fit(Line(), Train(steps=200, lr=1e20, optimizer="sgd", schedule="constant"), Select(points=1), "k")


def _saved(path: Path) -> tuple[nn.Module, torch.optim.Optimizer, Progress]:
    task = Line()
    optimizer = torch.optim.Adam(task.module.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        task.step(step).loss.backward()
        optimizer.step()
    progress = Progress(step=3, images_seen=12, seconds=1.5, curve=[{"step": 2, "val": {"single": 0.4}}], best_step=2)
    best = {name: value * 2 for name, value in task.module.state_dict().items()}
    save_checkpoint(path, "key", task.module, optimizer, progress, best)
    return task.module, optimizer, progress


def _fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Linear(3, 1)
    return module, torch.optim.Adam(module.parameters(), lr=0.05)


def _values(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return [torch.as_tensor(value) for index in sorted(state) for _, value in sorted(state[index].items())]


def test_checkpoints_bring_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    module, optimizer, progress = _saved(path)
    other, other_optimizer = _fresh()
    loaded, best = load_checkpoint(path, "key", other, other_optimizer)
    assert loaded == progress
    assert best is not None
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
        assert torch.equal(best[name], value * 2)
    assert len(_values(other_optimizer)) == 2 * 3
    for got, expected in zip(_values(other_optimizer), _values(optimizer), strict=True):
        assert torch.equal(got, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, -1])
def test_a_truncated_checkpoint_names_the_file_and_the_remedy(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    _saved(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"c\.safetensors cannot be read.*\n.*--resume never"):
        load_checkpoint(path, "key", *_fresh())


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    _saved(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="is damaged"):
        load_checkpoint(path, "key", *_fresh())


def test_a_checkpoint_of_another_trial_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    _saved(path)
    with pytest.raises(IntegrityError, match="belongs to trial key, not other"):
        load_checkpoint(path, "other", *_fresh())


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        load_checkpoint(tmp_path / "c.safetensors", "key", *_fresh())


def test_devices_and_precisions() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="--device gpu is not a device"):
        choose_device("gpu")
    with pytest.raises(UsageError, match="slabench runs on cpu and cuda"):
        choose_device("meta")
    if not torch.cuda.is_available():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(UsageError, match="torch sees 0 CUDA devices"):
            choose_device("cuda")
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) is None
    assert choose_precision("bfloat16", cpu) is torch.bfloat16
    assert choose_precision("auto", cpu) in (None, torch.bfloat16)


@pytest.mark.parametrize(
    ("vendor", "flags", "pays"),
    [
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", True),
        ("GenuineIntel", "avx2 avx512f avx512_bf16", False),
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", True),
        ("AuthenticAMD", "avx2 fma", False),
        ("ARM", "asimd bf16 i8mm", True),
    ],
)
def test_precision_follows_what_the_processor_multiplies_faster(vendor: str, flags: str, pays: bool) -> None:
    assert bfloat16_pays(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n") is pays


def test_rates_end_near_zero_and_never_below() -> None:
    rates = [learning_rate(Train(steps=1000, lr=1.0), step) for step in range(1000)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-5
    assert math.isclose(sum(rates) / 1000, 0.5, rel_tol=1e-2)


def test_every_optimiser_that_a_recipe_may_name_can_be_built() -> None:
    assert tuple(OPTIMIZERS) == get_args(OptimizerName)
    with pytest.raises(UsageError, match="unknown optimiser 'adagrad'"):
        build_optimizer(Train.model_construct(optimizer="adagrad"), nn.Linear(2, 2))
