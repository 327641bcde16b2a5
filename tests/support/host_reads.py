"""Record operations that make the host wait for the device, such as reads and copies."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.bincount,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.is_nonzero,
    aten.item,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_}
COPIES = {aten._to_copy, aten.to, aten.copy_}
METHODS = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy}  # not dispatched on CPU


class HostReads(TorchDispatchMode):
    """Context manager that records in `found` each operation that would wait for the device.

    Args:
        ignore: function that returns whether to ignore reads of a given tensor.
    """

    def __init__(self, ignore=lambda tensor: False):
        super().__init__()
        self.ignore, self.found = ignore, []

    def __enter__(self):
        self.methods = _MethodCalls(self)
        self.methods.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.methods.__exit__(*error)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        packet = operation.overloadpacket
        tensor = next((a for a in args if isinstance(a, torch.Tensor)), None)
        reads = packet in READS and not self.ignore(tensor)
        masks = packet in INDEXING and any(_is_mask(index) for index in args[1])
        moves = packet in COPIES and _count_devices(result, *args) > 1
        if reads or masks or moves:
            self.found.append(str(operation))
        return result


class _MethodCalls(TorchFunctionMode):
    """Record calls to `METHODS`, which `TorchDispatchMode` does not see for CPU tensors."""

    def __init__(self, reads: HostReads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in METHODS and args[0].device.type == "cpu" and not self.reads.ignore(args[0]):
            self.reads.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


def _is_mask(index) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _count_devices(*values) -> int:
    return len({value.device for value in values if isinstance(value, torch.Tensor)})
