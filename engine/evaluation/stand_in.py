"""A stand-in for a GPU on machines without one: tensors on the meta device, which have sizes and no values.

`stand_in()` yields a meter. Inside, modules and offloading groups that move to `DEVICE` become meta tensors there, and
every storage that an operation makes is followed while it lives: the peak is that of an allocator without fragments.
Mixing the host's tensors with the device's raises, as a GPU would. Nothing is computed, nothing can be timed.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from diffusers.hooks import group_offloading
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

DEVICE = torch.device("meta")
COPIES = ("_to_copy", "copy_", "lift_fresh", "_local_scalar_dense")


class Meter(TorchDispatchMode):
    """Bytes on the stand-in: weights while they lie there, and what operations make. `peak` since `restart`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, int] = {}

    def restart(self) -> int:
        """Forget the peak; returns what is held at this moment."""
        self.peak = self.now
        return self.now

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # inference mode leaves operations whole that consist of others
            if (output := operation.decompose(*args, **kwargs)) is not NotImplemented:
                return output
        name = operation.overloadpacket.__name__
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        kinds = {tensor.device.type for tensor in tensors if tensor.ndim}
        if len(kinds) > 1 and name not in COPIES:
            raise RuntimeError(f"{name} was given tensors on {' and '.join(sorted(kinds))}.")
        if name == "_local_scalar_dense" and tensors[0].device == DEVICE:
            return {torch.bool: True}.get(tensors[0].dtype, 1)
        if name == "_to_copy" and tensors[0].device == DEVICE and torch.device(kwargs.get("device", "meta")) != DEVICE:
            return torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype)
        if name == "_linalg_check_errors":  # of a system whose numbers are all zero
            return None
        output = operation(*args, **kwargs)
        for leaf in tree_iter(output):
            if isinstance(leaf, Tensor) and leaf.device == DEVICE:
                self._follow(leaf.untyped_storage())
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._let_go, storage._cdata)

    def _let_go(self, key: int) -> None:
        self.now -= self._storages.pop(key)


def replace_by(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Let `tensor`, a weight or buffer, lie on `device`, in `dtype`. On the host it takes no memory."""
    dtype = dtype or tensor.dtype
    if (tensor.device == DEVICE) == (device == DEVICE) and tensor.dtype == dtype:
        return
    if device == DEVICE:
        other = torch.empty(tensor.shape, dtype=dtype, device=DEVICE)
    else:
        other = torch.zeros((), dtype=dtype).expand(tensor.shape)
    torch.utils.swap_tensors(tensor, nn.Parameter(other, False) if isinstance(tensor, nn.Parameter) else other)


def attend(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    """What a fused kernel allocates: its output, and no scores."""
    return torch.empty_like(query)


@contextmanager
def stand_in() -> Iterator[Meter]:
    """Let the meta device take the place of a GPU for `nn.Module.to` and for diffusers' group offloading."""
    meter = Meter()

    def to(module: nn.Module, *args, **kwargs) -> nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        for tensor in (*module.parameters(), *module.buffers()):
            replace_by(tensor, device or tensor.device, dtype if tensor.is_floating_point() else None)
        return module

    def tensors_of(group: ModuleGroup) -> Iterator[Tensor]:
        for module in group.modules:
            yield from module.parameters()
            yield from module.buffers()
        yield from (*group.parameters, *group.buffers)

    def onload(group: ModuleGroup) -> None:
        for tensor in tensors_of(group):
            replace_by(tensor, group.onload_device)

    def offload(group: ModuleGroup) -> None:
        for tensor in tensors_of(group):
            replace_by(tensor, group.offload_device)

    with (
        torch.no_grad(),
        mock.patch.object(nn.Module, "to", to),
        mock.patch.object(functional, "scaled_dot_product_attention", attend),
        mock.patch.object(group_offloading, "TorchDeviceBackend"),  # which knows streams and no meta device
        mock.patch.object(ModuleGroup, "onload_", onload),
        mock.patch.object(ModuleGroup, "offload_", offload),
        meter,
    ):
        yield meter


def hollow(module: nn.Module) -> nn.Module:
    """`module`, built on the meta device, as one in the host memory of a stand-in: each tensor repeats one number."""
    seen: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
                    new = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
                    tensors[name] = seen.setdefault(id(tensor), new)  # tied tensors stay tied
    return module.eval()
