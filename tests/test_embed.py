"""Frozen networks: weights read safely and under the network's names, images embedded once, interruptions that lose nothing."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.core.errors import DataError, DataMissingError, UnsafePickleError, UsageError
from slabench.data import load
from slabench.embedders import open_features
from slabench.embedders.embedding import embed_images, plan_embedding
from slabench.embedders.facts import default_name, overlap
from slabench.embedders.networks import Network, open_network
from slabench.embedders.store import ARRAY, set_folder
from slabench.embedders.weights import efficientnet_names, fitted, read_weights
from slabench.sla.transforms import transform_set

TIMM = "test_efficientnet"  # of timm itself, for tests: 0.4 million weights


class Tiny(nn.Module):
    """A convolution and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


def network(size: int = 40) -> Network:
    torch.manual_seed(0)
    module = Tiny().eval()
    return Network(
        name="test:tiny",
        forward=module,
        module=module,
        size=size,
        dim=6,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        interpolation="bicubic",
        weights_sha256="0" * 64,
        licence="none",
    )


def embedded(name: str, split: str = "test", **more: Any) -> np.ndarray:
    views = transform_set("rotation")
    plan = plan_embedding(network(), name, "glyphs", splits=[split], transforms=views)
    embed_images(network(), plan, views, **more)
    return open_features(name, "glyphs", split).features()


@pytest.mark.usefixtures("glyphs")
class TestEmbedding:
    """From images to a feature set."""

    def test_features_are_the_network_s_of_the_resized_and_turned_images(self) -> None:
        found = embedded("tiny").astype(np.float32)
        images = torch.from_numpy(np.array(load("glyphs", "test").images[:20]))
        x = images.permute(0, 3, 1, 2).float() / 255
        x = functional.interpolate(x, (40, 40), mode="bicubic", antialias=True).clamp(0, 1)
        x = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
        with torch.inference_mode():
            expected = torch.stack([network().module(x.rot90(k, (2, 3))) for k in range(4)], 1)
        np.testing.assert_allclose(found[:20], expected.numpy(), rtol=2e-3, atol=2e-3)

    def test_what_was_interrupted_goes_on_and_is_what_it_would_have_been(self) -> None:
        whole = embedded("whole")
        count = 0

        def stop(n: int) -> None:
            nonlocal count
            count += n
            if count > 250:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embedded("stopped", done=stop)
        with pytest.raises(DataMissingError, match="lack"):
            open_features("stopped", "glyphs", "test")
        again: list[int] = []
        found = embedded("stopped", done=again.append)
        assert 0 < sum(again) < len(found)
        np.testing.assert_array_equal(found, whole)
        first, second = (set_folder(name, "glyphs") / ARRAY for name in ("whole", "stopped"))
        assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()

    def test_splits_are_added_to_what_is_there(self) -> None:
        test = embedded("parts")
        embedded("parts", "val")
        np.testing.assert_array_equal(open_features("parts", "glyphs", "test").features(), test)

    def test_another_size_needs_another_name(self) -> None:
        embedded("sized")
        with pytest.raises(UsageError, match="another embedder"):
            plan_embedding(network(48), "sized", "glyphs", transforms=transform_set("rotation"))

    def test_infinite_features_are_refused(self) -> None:
        broken = network()
        broken.module.norm.weight.data[2] = float("inf")  # type: ignore[union-attr]
        plan = plan_embedding(broken, "broken", "glyphs", splits=["test"])
        with pytest.raises(DataError, match="NaN or infinity"):
            embed_images(broken, plan, transform_set("rotation2"))


class TestWeights:
    """Files that nobody vouches for."""

    def test_a_state_dict_and_safetensors_are_read_alike(self, tmp_path: Path) -> None:
        state = Tiny().state_dict()
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
        save_file(state, tmp_path / "a.safetensors")
        for name in ("a.pth", "a.safetensors"):
            found = fitted(read_weights(tmp_path / name), state, tmp_path / name)
            assert all(torch.equal(found[key], value) for key, value in state.items())

    def test_code_is_refused(self, tmp_path: Path) -> None:
        torch.save(Tiny(), tmp_path / "a.pth")
        with pytest.raises(UnsafePickleError, match="more than tensors"):
            read_weights(tmp_path / "a.pth")

    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
    def test_a_truncated_file_is_told(self, tmp_path: Path, name: str) -> None:
        state = {"w": torch.arange(5000.0)}
        save_file(state, tmp_path / name) if name.endswith("s") else torch.save(state, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3000])
        with pytest.raises(DataError, match=name):
            read_weights(tmp_path / name)

    def test_weights_of_another_network_are_told(self, tmp_path: Path) -> None:
        state = Tiny().state_dict()
        with pytest.raises(DataError, match=r"lacks 'conv\.bias'"):
            fitted({k: v for k, v in state.items() if k != "conv.bias"}, state, tmp_path)
        with pytest.raises(DataError, match=r"'conv\.bias' is \[2\]"):
            fitted({**state, "conv.bias": torch.zeros(2)}, state, tmp_path)

    def test_names_of_efficientnet_pytorch_become_timm_s(self) -> None:
        wanted = [
            *("conv_stem.weight", "bn1.bias", "conv_head.weight", "bn2.weight", "classifier.bias"),
            *("blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.weight", "blocks.0.0.conv_pw.weight", "blocks.0.0.bn2.bias"),
            *("blocks.1.0.conv_pw.weight", "blocks.1.0.bn1.weight", "blocks.1.0.conv_dw.weight"),
            *("blocks.1.0.bn2.weight", "blocks.1.0.conv_pwl.weight", "blocks.1.0.bn3.weight"),
        ]
        theirs = [
            *("_conv_stem.weight", "_bn0.bias", "_conv_head.weight", "_bn1.weight", "_fc.bias"),
            *("_blocks.0._depthwise_conv.weight", "_blocks.0._bn1.weight"),
            *("_blocks.0._project_conv.weight", "_blocks.0._bn2.bias"),
            *("_blocks.1._expand_conv.weight", "_blocks.1._bn0.weight", "_blocks.1._depthwise_conv.weight"),
            *("_blocks.1._bn1.weight", "_blocks.1._project_conv.weight", "_blocks.1._bn2.weight"),
        ]
        tensors = {name: torch.tensor(float(k)) for k, name in enumerate(theirs)}
        found = efficientnet_names(tensors, dict.fromkeys(wanted, torch.tensor(0.0)))
        assert {name: int(value) for name, value in found.items()} == {name: k for k, name in enumerate(wanted)}


class TestTimm:
    """Networks of timm, with random weights: nothing is downloaded."""

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        timm = pytest.importorskip("timm", reason="needs timm: pip install slabench[timm]")
        torch.manual_seed(0)
        path = tmp_path / "weights.safetensors"
        save_file(timm.create_model(TIMM, pretrained=False).state_dict(), path)
        return path

    def test_resize_and_normalisation_are_the_model_s(self, weights: Path) -> None:
        import timm

        found = open_network(f"timm:{TIMM}", weights, 64)
        config = timm.data.resolve_model_data_config(timm.create_model(TIMM))
        assert (found.mean, found.std) == (config["mean"], config["std"])
        assert (found.size, found.interpolation) == (64, config["interpolation"])
        assert found.forward(torch.zeros(2, 3, 64, 64)).shape == (2, found.dim)
        assert found.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()

    def test_without_weights_it_says_what_to_fetch(self) -> None:
        pytest.importorskip("timm", reason="needs timm: pip install slabench[timm]")
        with pytest.raises(UsageError, match="downloads none") as raised:
            open_network(f"timm:{TIMM}")
        assert "huggingface.co" in raised.value.remedy
        assert "--weights FILE" in raised.value.remedy

    def test_an_unknown_model_is_told(self) -> None:
        pytest.importorskip("timm", reason="needs timm: pip install slabench[timm]")
        with pytest.raises(UsageError, match="no model 'resnet5000'"):
            open_network("timm:resnet5000")

    @pytest.mark.usefixtures("glyphs")
    def test_the_command_embeds_and_the_features_are_scored(self, weights: Path, tmp_path: Path) -> None:
        run = CliRunner()
        common = ["embed", "--model", f"timm:{TIMM}", "--weights", str(weights), "--dataset", "glyphs"]
        made = run.invoke(
            app, [*common, "--splits", "test", "--size", "32", "--name", "tiny", "--pretraining", "nothing"]
        )
        assert made.exit_code == 0, made.output
        again = run.invoke(
            app, [*common, "--splits", "test", "--size", "32", "--name", "tiny", "--pretraining", "nothing"]
        )
        assert "0 images of glyphs" in again.output
        words = ["score", "--features", "tiny", "--dataset", "glyphs", "--heads", "protonet", "--episodes", "20"]
        scored = run.invoke(app, [*words, "--queries", "5", "--results", str(tmp_path / "r")])
        assert scored.exit_code == 0, scored.output
        assert "contaminated: no" in scored.output
        assert "tiny" in run.invoke(app, ["features", "list"]).output


def test_clip_by_its_documented_interface(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in: open_clip and weights for it are no part of the tests."""

    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = nn.Linear(3, 5)
            self.visual.image_size, self.visual.output_dim = (48, 48), 5
            self.visual.image_mean, self.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

        def encode_image(self, x: torch.Tensor) -> torch.Tensor:
            return self.visual(x.mean((2, 3)))

    fake = types.ModuleType("open_clip")
    fake.list_models = lambda: ["ViT-T"]  # type: ignore[attr-defined]
    fake.create_model = lambda name, pretrained: Clip()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    weights = tmp_path / "clip.safetensors"
    save_file({key: value + 1 for key, value in Clip().state_dict().items()}, weights)
    found = open_network("clip:ViT-T", weights)
    assert (found.size, found.dim, found.mean) == (48, 5, (0.1, 0.2, 0.3))
    assert torch.equal(found.module.state_dict()["visual.bias"], read_weights(weights)["visual.bias"])
    assert found.forward(torch.zeros(1, 3, 48, 48)).shape == (1, 5)
    with pytest.raises(UsageError, match="no model 'ViT-X'"):
        open_network("clip:ViT-X", weights)
    with pytest.raises(UsageError, match="no weights"):
        open_network("clip:ViT-T")


def test_names_of_networks_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("resnet18", "timm:", "torch:resnet18"):
        with pytest.raises(UsageError, match="not the name of a network"):
            open_network(model)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="timm cannot be imported") as raised:
        open_network("timm:resnet18")
    assert "slabench[timm]" in raised.value.remedy


def test_what_is_known_of_contamination() -> None:
    assert overlap("ImageNet-1k", "cifar100")[0] == "yes"
    assert overlap("LAION-2B", "cifar100") == ("unknown", "")
    assert overlap("ImageNet-1k", "glyphs")[0] == "no"
    assert default_name("timm:tf_efficientnet_lite0", 128) == "tf-efficientnet-lite0-128"
