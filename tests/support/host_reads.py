"""Counts what makes the host wait for the device: values read back, shapes that follow from values, copies."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.is_nonzero, aten.item),
}
CALLS = {
    torch.Tensor.tolist,
    torch.Tensor.cpu,
    torch.Tensor.numpy,
}  # on the CPU these dispatch nothing


class HostReads(TorchDispatchMode):
    """While it is entered, `found` gets an entry (the operation's name) for everything that waits.

    On the CPU, where every value is at hand, these are the operations that would wait on another device.

    Args:
        ignore: tells of a tensor that reading it does not count.
    """

    def __init__(self, ignore=lambda tensor: False):
        super().__init__()
        self.ignore, self.found = ignore, []

    def __enter__(self):
        self.calls = Calls(self)
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.calls.__exit__(*error)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        packet, tensor = (
            operation.overloadpacket,
            next((a for a in args if isinstance(a, torch.Tensor)), None),
        )
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        moved = packet in (aten._to_copy, aten.to, aten.copy_) and _devices(result, *args) > 1
        if (packet in READS and not self.ignore(tensor)) or by_mask or moved:
            self.found.append(str(operation))
        return result


class Calls(TorchFunctionMode):
    """The part of `HostReads` that sees calls of tensors' methods, before they become operations."""

    def __init__(self, reads: HostReads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in CALLS and args[0].device.type == "cpu" and not self.reads.ignore(args[0]):
            self.reads.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


def _devices(*values) -> int:
    return len({value.device for value in values if isinstance(value, torch.Tensor)})
