"""What a running distillation takes of a CPU's memory, from its tensors and from the allocator."""

from __future__ import annotations

from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from puzzle.distillation.loop import Loop


def measure_steps(record):
    """Lets every step of a distillation call `record` with what it took."""
    plain = Loop._gradients

    def measured(loop):
        kept, before = Kept(loop), gradients(loop)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, kept.hooks:
            means = plain(loop)
        moments = loop.optimizer.moments(loop.parameters) if loop.step else {}
        record(
            {
                "child": held(loop.module.parameters(), trained=True),
                "parent": held(loop.module.parameters(), trained=False),
                "gradients": gradients(loop),
                "moments": held(moments.values()),
                "kept": kept.bytes,
                "passes": before + peak(seen),
            }
        )
        return means

    Loop._gradients = measured


def gradients(loop):
    """Returns the bytes of the gradients that there are."""
    return held(p.grad for p in loop.parameters.values() if p.grad is not None)


def held(tensors, trained=None):
    """Returns the bytes of tensors that this process has."""
    return sum(local(each).nbytes for each in tensors if trained in (None, each.requires_grad))


def local(tensor):
    """Returns the part of a tensor that this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def peak(seen):
    """Returns the most bytes that the allocator gave out at once while the profiler ran."""
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


class Kept:
    """Counts the storages that operations save for the backward pass, but for the weights."""

    def __init__(self, loop):
        weights = {local(p).untyped_storage().data_ptr() for p in loop.module.parameters()}
        self.sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                self.sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.hooks = saved_tensors_hooks(pack, lambda tensor: tensor)

    @property
    def bytes(self):
        return sum(self.sizes.values())
