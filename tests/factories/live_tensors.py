"""How many bytes of tensors are alive at once while something runs."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the tensors that operations make while it is entered, but for those in files."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {_place(each) for each in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        self.alive = {
            place: (size, refs)
            for place, (size, refs) in self.alive.items()
            if any(ref() is not None for ref in refs)
        }
        for tensor in _tensors(out):
            place = _place(tensor)
            if place in self.alive:
                self.alive[place][1].append(weakref.ref(tensor))
            elif place not in given and "from_file" not in str(func):
                self.alive[place] = (tensor.untyped_storage().nbytes(), [weakref.ref(tensor)])
        self.peak = max(self.peak, sum(size for size, _ in self.alive.values()))
        return out


def _tensors(values):
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def _place(tensor):
    return tensor.untyped_storage().data_ptr()
