"""One process or many: how a distillation is placed, sharded and synchronised.

`accelerate launch` says how many processes there are, on which devices, and whether FSDP is
wanted. Both models are then one module that is replicated (DDP) or sharded (FSDP2). Full tensors
are read by the first process and distributed one at a time, and gathered one at a time; a sharded
child is complete again only in the first process, which writes it at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import nn
from torch.distributed import (
    ProcessGroup,
    all_gather_object,
    all_reduce,
    broadcast,
    broadcast_object_list,
    new_group,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distiller import Distiller
from puzzle.errors import DataError
from puzzle.hardware.format_speed import computing_format

logger = logging.getLogger(__name__)


class Parallel:
    """The processes of one run.

    Args:
        config: Whether to shard, and the number format of the computation.

    Raises:
        DataError: The launch configuration is not supported here.
    """

    def __init__(self, config: DistillConfig) -> None:
        self.timeout = timedelta(minutes=config.timeout_minutes)
        waiting = InitProcessGroupKwargs(timeout=self.timeout)
        self.accelerator = Accelerator(kwargs_handlers=[waiting])
        state = self.accelerator.state
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        plain = (
            DistributedType.NO,
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
            DistributedType.MULTI_XPU,
        )
        fsdp = state.distributed_type == DistributedType.FSDP
        if not fsdp and state.distributed_type not in plain:
            raise DataError(
                f"accelerate was launched with {state.distributed_type}; allowed: one process, "
                "several (DDP), or FSDP with fsdp_version: 2"
            )
        self.plugin = state.fsdp_plugin if fsdp else None
        if self.plugin is not None and self.plugin.fsdp_version != 2:
            raise DataError("accelerate was launched with FSDP 1; set fsdp_version: 2")
        self.sharded = self.size > 1 and (fsdp if config.shard is None else config.shard)
        precision = config.mixed_precision or self.accelerator.mixed_precision
        if precision not in ("no", "bf16"):
            raise DataError(f"mixed precision {precision!r} is not supported; use 'bf16' or 'no'")
        self.bf16 = precision == "bf16"
        if self.bf16 and computing_format(torch.bfloat16, self.device) != torch.bfloat16:
            logger.warning(
                "mixed precision 'bf16' is slow on %s, which multiplies in float32 much faster; "
                "with mixed_precision='no' the same distillation takes less time",
                self.device,
            )

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def replicated(self) -> bool:
        """Whether each of several processes has all weights."""
        return self.size > 1 and not self.sharded

    def place(self, distiller: Distiller, source: Callable[[str], torch.Tensor]) -> nn.Module:
        """Moves and shards a distiller, loads its parameters, and returns the module to call.

        Args:
            distiller: Both models; the values of their parameters are not used.
            source: Returns a parameter's value by its name in the distiller; only the first
                process calls it.
        """
        if self.sharded:
            self._shard(distiller)
        distiller.to(self.device)
        for name, parameter in distiller.named_parameters():
            self.fill(parameter, partial(source, name))
        if not self.replicated:
            return distiller
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Without views, what is exchanged is always a second copy of all gradients.
        return DistributedDataParallel(
            distiller, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def _shard(self, distiller: Distiller) -> None:
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.size,)),
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if self.bf16 else None, reduce_dtype=torch.float32
            ),
        }
        if self.plugin is not None and self.plugin.cpu_offload:
            options["offload_policy"] = self.plugin.cpu_offload
        # Of an offline teacher there is no parent.
        models = [m for m in (distiller.child, distiller.parent) if hasattr(m, "model")]
        for model in models:
            for layer in model.model.layers:
                if next(layer.parameters(), None) is not None:
                    fully_shard(layer, **options)
        fully_shard(distiller, **options)

    @torch.no_grad()
    def fill(self, tensor: torch.Tensor, value: Callable[[], torch.Tensor]) -> None:
        """Sets a tensor of every process to the value that the first one has."""
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if self.first:
            whole = value().to(device=self.device, dtype=tensor.dtype).contiguous()
        else:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        if self.size == 1:
            local.copy_(whole)
        elif isinstance(tensor, DTensor):
            sharded = distribute_tensor(whole, tensor.device_mesh, tensor.placements)
            local.copy_(sharded.to_local())
        else:
            broadcast(whole, src=0)
            local.copy_(whole)

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields full tensors on the CPU; every process has to iterate over all of them."""
        for name, tensor in tensors.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            yield name, whole.detach().cpu()

    def precision(self) -> AbstractContextManager[Any]:
        """Returns the context in which a forward pass runs."""
        # FSDP casts the weights itself, and only then are they gathered in 16 bits.
        if self.bf16 and not self.sharded:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def accumulating(self, module: Any, last: bool) -> AbstractContextManager[Any]:
        """Returns the context of one backward pass; gradients are exchanged in the last one.

        Sharded, they are exchanged in each: until then FSDP would keep them whole.
        """
        return module.no_sync() if self.replicated and not last else nullcontext()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the mean of a tensor over the processes."""
        if self.size > 1:
            all_reduce(values)
            values /= self.size
        return values

    def share(self, value: Any, group: ProcessGroup | None = None) -> Any:
        """Returns the first process's value to all of them, in a group of them if one is given."""
        if self.size > 1:
            held = [value]
            broadcast_object_list(held, src=0, group=group)
            return held[0]
        return value

    def collect(self, value: Any, group: ProcessGroup | None = None) -> list[Any]:
        """Returns the values of all processes, in their order, to all of them; as for `share`."""
        if self.size == 1:
            return [value]
        held = [None] * self.size
        all_gather_object(held, value, group=group)
        return held

    def group_aside(self) -> ProcessGroup | None:
        """Returns a group of all processes for what they do beside the steps, on the CPU.

        Every process has to call it. What two threads exchange in one group could be mixed up.
        """
        return new_group(backend="gloo", timeout=self.timeout) if self.size > 1 else None

    def barrier(self) -> None:
        """Waits until every process has reached this point."""
        self.accelerator.wait_for_everyone()
