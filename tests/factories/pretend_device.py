"""A device that is not there: its tensors are computed on the CPU and refuse to meet the CPU's.

It is to code that moves tensors what a GPU is: an operation on tensors of two devices raises, as
does one on a module that was left behind; copies between the devices are what they are.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
ATEN = torch.ops.aten
# An index may be on the CPU, whatever it indexes.
MAY_MIX = {ATEN.copy_.default, ATEN._to_copy.default, ATEN.index.Tensor, ATEN.index_put_.default}
READS = {"item", "tolist", "__float__", "__bool__", "__int__", "__index__"}


class OnDevice(torch.Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in READS:
            return func(args[0].detach().inner, *args[1:])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Created(TorchDispatchMode):
    """Makes the tensors that are asked for on the device, which the subclass does not see."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


# Indexing by a list makes its index behind the mode's back.
LIBRARY = torch.library.Library("aten", "IMPL")


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, target, non_blocking=False):
    plain = [t.inner if isinstance(t, OnDevice) else t for t in (source, target)]
    plain[1].copy_(plain[0])
    return target


LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")


def _run(func, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    wanted = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    here = [isinstance(tensor, OnDevice) for tensor in tensors]
    on = any(here) if wanted is None else wanted.type == NAME
    strays = [t.shape for t, is_here in zip(tensors, here, strict=True) if not is_here and t.dim()]
    if func is ATEN._has_compatible_shallow_copy_type.default:
        return False
    if any(here) and strays and func not in MAY_MIX:
        raise RuntimeError(f"{func}: tensors of {NAME} and of the CPU, these of sizes {strays}")
    args, kwargs = tree_map_only(OnDevice, lambda tensor: tensor.inner, (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    out = func(*args, **kwargs)
    if func._schema.is_mutable and not func._schema.name.endswith(".out") and tensors:
        # What is changed in place stays the tensor that it was.
        return tensors[0] if isinstance(out, torch.Tensor) else out
    return tree_map_only(torch.Tensor, OnDevice, out) if on else out


@contextlib.contextmanager
def pretend_device():
    """Gives the device, which works inside only."""
    with _Created():
        yield DEVICE
