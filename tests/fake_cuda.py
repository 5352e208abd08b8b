"""A CUDA device that is not there: what would mix devices raises, what would make the host wait is noted.

torch's `FakeTensorMode` gives tensors that say they lie on `cuda` and follow its rules, without data. Here each also carries its
values, computed beside it on the CPU, so that a solver that looks at numbers runs too. Tensors of the CPU stay what they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import slabench

CUDA = torch.device("cuda:0")
_PACKAGE = Path(slabench.__file__).parent
_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor)


class FakeCuda(TorchDispatchMode):
    """Within it, `cuda` can be used.

    Args:
        with_values: compute values too; without, code that looks at them raises, and large networks cost nothing.

    Attributes:
        waits: where the host waited for the device: (why, "heads/file.py:function"), in order.
    """

    def __init__(self, with_values: bool = True) -> None:
        super().__init__()
        self.with_values = with_values
        self.waits: list[tuple[str, str]] = []
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._pinned: set[int] = set()
        self._alive: list[Tensor] = []  # an address is not given out again

    @contextmanager
    def running(self) -> Iterator[FakeCuda]:
        """Device, and torch's backward pass walked node by node: the engine asks for a driver before it starts."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", _engine))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its operators have no values on the CPU
            stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
            stack.enter_context(self._fake)
            stack.enter_context(self)
            yield self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [t for t in tensors if isinstance(t, FakeTensor)]
        wanted = kwargs.get("device")
        to_device = wanted is not None and torch.device(wanted).type == "cuda"
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if torch.is_inference_mode_enabled() and func._can_decompose():  # as outside of inference
            with self:
                return func.decompose(*args, **kwargs)
        if func is _aten.is_pinned.default:
            return args[0].untyped_storage().data_ptr() in self._pinned
        if func is _aten._pin_memory.default:
            with unset_fake_temporarily():
                pinned = args[0].clone()
            self._pinned.add(pinned.data_ptr())
            self._alive.append(pinned)
            return pinned
        if not there and not to_device:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        why = self._waits_for(func, args, kwargs, tensors, there, to_device)
        if why:
            self.waits.append((why, _where()))
        if not self.with_values:
            return func(*args, **kwargs)
        values = _on_host(func, args, kwargs)
        from_device = there and (
            (wanted is not None and not to_device)
            or (func is _aten.copy_.default and not isinstance(args[0], FakeTensor))
        )
        if from_device or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(values)):
            return values  # now on the host
        if _shape_by_data(func, args):
            return tree_map(self._of, values)
        found = func(*args, **kwargs)
        fresh = all(returned.alias_info is None for returned in func._schema.returns)
        for made, value in zip(tree_leaves(found), tree_leaves(values), strict=True):
            if isinstance(made, FakeTensor) and not any(made is t for t in there):
                made.values_ = _laid_out_as(made, value) if fresh else value
        return found

    def _waits_for(
        self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], there: list[FakeTensor], to_device: bool
    ) -> str | None:
        if func in _COPIES:
            source = args[1] if func is _aten.copy_.default else args[0]
            target_there = isinstance(args[0], FakeTensor) if func is _aten.copy_.default else to_device
            if isinstance(source, FakeTensor):
                stays = target_there or (kwargs.get("device") is None and func is not _aten.copy_.default)
                return None if stays else "copy to the host"
            without_wait = kwargs.get("non_blocking") or (func is _aten.copy_.default and args[2:] and args[2])
            pinned = source.untyped_storage().data_ptr() in self._pinned
            return None if without_wait and pinned else "blocking upload"
        if torch.Tag.data_dependent_output in func.tags or func is _aten._linalg_check_errors.default:
            return "value read"
        if _shape_by_data(func, args):
            return "shape by data"
        if there and func in _INDEXING and len(there) < len(tensors):
            return "index on the host"
        return None

    def _of(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=CUDA)
        made.values_ = value
        return made


def values(tensor: Tensor) -> Tensor:
    """What lies on the fake device, without a copy that would be noted."""
    return tensor.values_ if isinstance(tensor, FakeTensor) else tensor


def _on_host(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of `func` on the values."""
    args, kwargs = tree_map(values, args), tree_map(values, kwargs)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    with unset_fake_temporarily():
        return func(*args, **kwargs)


def _laid_out_as(made: FakeTensor, value: Tensor) -> Tensor:
    """`value` in the strides that the device would have given it, so that it has the same views."""
    if made.stride() == value.stride():
        return value
    with unset_fake_temporarily():
        return torch.empty_strided(made.shape, made.stride(), dtype=value.dtype).copy_(value)


def _shape_by_data(func: Any, args: Any) -> bool:
    if func in _INDEXING:  # by a mask; by rows it waits for nothing
        return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


def _where() -> str:
    """The innermost function of slabench that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE).as_posix()}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside slabench"


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters in place of swapped ones, which torch refuses to fakes that are known elsewhere."""
    for module in self.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                with torch.no_grad():
                    module._parameters[name] = nn.Parameter(fn(weight), weight.requires_grad)
        for name, state in module._buffers.items():
            if state is not None:
                module._buffers[name] = fn(state)
    return self


def _engine(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor],
    *_: bool,
    accumulate_grad: bool,
    **__: bool,
) -> tuple[Tensor | None, ...] | None:
    """What torch's engine does for `backward` (no inputs, gradients are accumulated) and for `torch.autograd.grad`."""
    found = _walk(outputs, gradients, create_graph)
    if not accumulate_grad:
        return tuple(found.get(x if x.grad_fn is None else (x.grad_fn, x.output_nr)) for x in inputs)
    for leaf, gradient in found.items():
        if isinstance(leaf, Tensor):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return None


def _walk(outputs: Sequence[Tensor], gradients: Sequence[Tensor], create_graph: bool) -> dict[Any, Tensor]:
    """Gradients by leaf, and by (node, number of its output) of what is no leaf."""
    waiting: dict[Any, int] = {}
    stack = [o.grad_fn for o in outputs]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for after, _ in node.next_functions:
            if after is not None:
                waiting[after] = waiting.get(after, 0) + 1
                if after not in seen:
                    seen.add(after)
                    stack.append(after)
    inflow: dict[Any, Tensor] = {}

    def add(node: Any, place: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            wanted = node._input_metadata[place]  # as the engine: broadcast summed, precision put back
            gradient = gradient.sum_to_size(tuple(wanted.shape)).to(wanted.dtype)
            before = inflow.get((node, place))
            inflow[node, place] = gradient if before is None else before + gradient

    for output, gradient in zip(outputs, gradients, strict=True):
        add(output.grad_fn, output.output_nr, gradient)
    ready = [node for node in {o.grad_fn for o in outputs} if not waiting.get(node)]
    found: dict[Any, Tensor] = {}
    with torch.set_grad_enabled(create_graph):
        while ready:
            node = ready.pop()
            own = [inflow.get((node, place)) for place in range(len(node._input_metadata))]
            if hasattr(node, "variable"):  # a leaf
                if own[0] is not None:
                    found[node.variable] = own[0]
                continue
            if any(g is not None for g in own):
                made = (node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node)(*own)
                made = made if isinstance(made, tuple) else (made,)
            else:
                made = (None,) * len(node.next_functions)
            for (after, place), gradient in zip(node.next_functions, made, strict=False):
                if after is not None:
                    add(after, place, gradient)
                    waiting[after] -= 1
                    if not waiting[after]:
                        ready.append(after)
    return {**inflow, **found}
