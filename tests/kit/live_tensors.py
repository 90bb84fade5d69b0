"""How many bytes of tensors there are."""

import gc

import torch


def alive() -> int:
    """Bytes of the storages of all tensors that no `gc.freeze` hides, gradients and moments among them."""
    gc.collect()
    storages = {}
    # Those of a compiler are of a class of their own, and have no storage.
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    for tensor in [*tensors, *(each.grad for each in tensors if each.is_leaf and each.grad is not None)]:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())
