"""Backbones against closed forms and the definitions of their papers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from slabench.backbones import n_parameters
from slabench.backbones.fewshot import conv4, dropblock_mask, resnet12, resnet12_slim
from slabench.backbones.resnet import (
    CifarResNet,
    resnet18,
    resnet18_cifar,
    resnet20,
    resnet32,
    resnet50,
    resnet56,
    wrn_28_10,
)
from slabench.core.errors import UsageError
from slabench.core.seeding import fork_for_init


def convolution_weights(widths: tuple[int, ...]) -> int:
    """Weights of ResNet-12 by hand: per block three 3x3 and one 1x1 convolution, and four batch norms of two vectors."""
    total, inputs = 0, 3
    for width in widths:
        total += 9 * inputs * width + 2 * 9 * width * width + inputs * width + 4 * 2 * width
        inputs = width
    return total


def test_resnet12_has_the_papers_weights() -> None:
    assert convolution_weights((64, 160, 320, 640)) == 12_424_320
    assert n_parameters(resnet12(32)) == 12_424_320
    assert n_parameters(resnet12(84, dropblock_size=5)) == 12_424_320
    assert n_parameters(resnet12_slim(32)) == convolution_weights((32, 64, 128, 256))


def test_conv4_has_the_textbooks_weights() -> None:
    # 3x3 convolutions without bias, and two vectors of batch norm a block.
    assert n_parameters(conv4(32)) == 9 * 3 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64 == 112_832


@pytest.mark.parametrize(
    ("backbone", "size", "dim"),
    [(conv4, 32, 256), (conv4, 84, 1600), (resnet12_slim, 32, 1024), (resnet12_slim, 84, 6400), (resnet12, 32, 2560)],
)
def test_feature_dimensions(backbone: object, size: int, dim: int) -> None:
    net = backbone(size).eval()  # type: ignore[operator]
    assert net.feature_dim == dim
    with torch.no_grad():
        assert net(torch.zeros(1, 3, size, size)).shape == (1, dim)


@pytest.mark.parametrize("backbone", [conv4, resnet12])
def test_images_too_small_to_pool_are_refused(backbone: object) -> None:
    with pytest.raises(UsageError, match=r"at least 16 x 16 pixels, got 12 x 12"):
        backbone(12)  # type: ignore[operator]


@pytest.mark.parametrize("train", [True, False])
def test_conv4_pools_before_relu_as_well_as_after(train: bool) -> None:
    with fork_for_init(0, "test"):
        net = conv4(32).train(train)
        images = torch.randn(4, 3, 32, 32)
    x = images
    for block in net.blocks:
        x = functional.max_pool2d(functional.relu(block.norm(block.conv(x))), 2)
    assert torch.equal(net(images), x.flatten(1))


def _textbook_block(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = functional.leaky_relu(block.norms[0](block.convs[0](x)), 0.1)
    out = functional.leaky_relu(block.norms[1](block.convs[1](out)), 0.1)
    out = block.norms[2](block.convs[2](out))
    return functional.max_pool2d(functional.leaky_relu(out + block.shortcut(x), 0.1), 2)


def test_resnet12_in_evaluation_is_its_blocks_and_drops_nothing() -> None:
    with fork_for_init(0, "test"):
        net = resnet12_slim(32).eval()
        images = torch.randn(2, 3, 32, 32)
    net.set_step(40_000)
    with torch.no_grad():
        x = images
        for block in net.blocks:
            x = _textbook_block(block, x)
        torch.testing.assert_close(net(images), x.flatten(1))
        assert torch.equal(net(images), net(images))


def test_resnet12_in_training_drops_by_its_generator_alone() -> None:
    with fork_for_init(0, "test"):
        net = resnet12_slim(32).train()
        images = torch.randn(8, 3, 32, 32)
    net.set_step(20_000)
    before = torch.random.get_rng_state()

    def features(seed: int) -> torch.Tensor:
        net.set_noise(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return net(images)

    first, again, other = features(1), features(1), features(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropblock_starts_at_zero_and_grows_with_the_global_step_not_with_the_forwards() -> None:
    with fork_for_init(0, "test"):
        net = resnet12_slim(32).train()
    block = net.blocks[2]
    shape = (64, 16, 4, 4)
    masks = {}
    for step in (0, 20_000, 40_000, 80_000):
        net.set_step(step)
        for _ in range(3):  # forwards in between change nothing
            net.set_noise(torch.Generator().manual_seed(0))
            masks[step] = block._mask(torch.zeros(shape))
    assert torch.equal(masks[0], torch.ones(shape))
    dropped = {step: float((mask == 0).float().mean()) for step, mask in masks.items()}
    assert 0 < dropped[20_000] < dropped[40_000]
    assert torch.equal(masks[40_000], masks[80_000])  # the rate stays at 0.1


@pytest.mark.parametrize(("height", "block"), [(5, 5), (4, 2), (10, 5), (8, 3)])
def test_dropblock_mask_is_made_of_whole_blocks_at_the_rate_of_the_paper(height: int, block: int) -> None:
    keep = 0.9
    mask = dropblock_mask((400, 32, height, height), keep, block, torch.Generator().manual_seed(0))
    dropped = mask == 0
    corners = height - block + 1
    gamma = (1 - keep) / block**2 * height**2 / corners**2
    # A position is dropped unless every corner that reaches it stays: count those corners for each position.
    reach = torch.tensor([min(p, corners - 1) - max(0, p - block + 1) + 1 for p in range(height)])
    expected = 1 - (1 - gamma) ** (reach[:, None] * reach[None, :]).double()
    realised = dropped.double().mean((0, 1))
    blocks_seen = 400 * 32
    sigma = (expected * (1 - expected) / blocks_seen).sqrt()
    assert ((realised - expected).abs() < 5 * sigma).all()
    # Where anything is dropped, some whole window of block x block is.
    windows = functional.avg_pool2d(dropped.float(), block, stride=1).amax((2, 3))
    assert (windows[dropped.any(3).any(2)] == 1).all()
    # Rescaled so that the mean over the batch is kept.
    assert float(mask.mean()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("backbone", [conv4, resnet12_slim, resnet20, resnet18_cifar])
def test_folded_batch_norms_are_the_same_function(backbone: object) -> None:
    with fork_for_init(0, "test"):
        net = backbone(32).double().train()  # type: ignore[operator]
        images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            net(images)  # batch norms with statistics of their own
        for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        net.set_noise(torch.Generator())
        folded = net.folded()
        assert net.training
        assert not folded.training
        assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert n_parameters(net) > n_parameters(folded)
        torch.testing.assert_close(folded(images), net.eval()(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("backbone", "weights", "dim"),
    [
        (resnet20, 269_722, 64),
        (resnet32, 464_154, 64),
        (resnet56, 853_018, 64),
        (resnet18_cifar, 11_173_962, 512),
        (wrn_28_10, 36_479_194, 640),
    ],
)
def test_cifar_networks_have_the_published_weights(backbone: object, weights: int, dim: int) -> None:
    """Counts of the usual implementations, which include a linear layer of ten classes."""
    net = backbone(32)  # type: ignore[operator]
    assert net.feature_dim == dim
    assert n_parameters(net) + 10 * dim + 10 == weights


@pytest.mark.parametrize(("backbone", "weights", "dim"), [(resnet18, 11_689_512, 512), (resnet50, 25_557_032, 2048)])
def test_torchvisions_networks_lack_their_last_layer(backbone: object, weights: int, dim: int) -> None:
    net = backbone(64).eval()  # type: ignore[operator]
    assert n_parameters(net) + 1000 * dim + 1000 == weights
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, dim)
    with pytest.raises(UsageError, match="at least 64 x 64"):
        backbone(32)  # type: ignore[operator]


def test_shortcut_a_takes_every_second_pixel_and_pads_zeros_on_both_sides() -> None:
    net = CifarResNet(32, (1, 1), 8, "A").eval()
    block = net.layers[2]
    x = torch.randn(2, 8, 32, 32)
    short = block._shortcut(x)
    assert short.shape == (2, 16, 16, 16)
    assert torch.equal(short[:, 4:12], x[:, :, ::2, ::2])
    assert not short[:, :4].any()
    assert not short[:, 12:].any()


def test_dropout_of_the_wide_network_is_its_generators() -> None:
    with fork_for_init(0, "test"):
        from slabench.backbones.resnet import WideResNet

        net = WideResNet(32, 10, 1, 0.3).train()
        images = torch.randn(4, 3, 32, 32)
    outputs = []
    for seed in (1, 1, 2):
        net.set_noise(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            outputs.append(net(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
