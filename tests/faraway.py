"""A device that is not the CPU, for machines without a GPU: `BLOOMERY_DEVICE=far pytest -p tests.faraway ...`

Its tensors are the CPU's inside, and say that they are `far`.  As on a GPU, what mixes them with tensors that are here
raises: only numbers of no dimension, and indices, may be here.  What it does not show: kernels of its own, and time.
"""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
MOVES = (aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class Machine(_DummyBackendModule):
    """What torch asks of a backend beside its operations."""

    def synchronize(self, device: object = None) -> None:
        """Nothing is ever under way."""

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


class Far(Tensor):
    """A tensor far away; `near` holds its values."""

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        made = Tensor._make_wrapper_subclass(cls, near.shape, strides=near.stride(), dtype=near.dtype, device=FAR,
                                             storage_offset=near.storage_offset())
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})

    def tolist(self) -> list:
        return self.near.tolist()

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def __deepcopy__(self, memo: dict) -> Tensor:
        copy = Far(self.near.detach().clone())
        memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]


def run(operation, args: tuple, kwargs: dict):
    """An operation on what is inside, if all of it is far away."""
    kwargs = dict(kwargs)
    to = kwargs.pop("device", FAR)
    met = args[:1] + args[2:] if operation in INDEXED else args
    if operation not in MOVES:
        for x in tree_leaves((met, kwargs)):
            if isinstance(x, Tensor) and not isinstance(x, Far) and x.dim():
                raise RuntimeError(f"{operation}: a tensor {tuple(x.shape)} that is here meets one that is far away")
    inside = {id(x.near): x for x in tree_leaves((args, kwargs)) if isinstance(x, Far)}
    near_args, near_kwargs = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, kwargs))
    out = operation(*near_args, **near_kwargs)
    if operation is aten.copy_.default:
        return args[0]
    if operation is aten._to_copy.default and to is not None and torch.device(to).type != FAR.type:
        return out
    return tree_map(lambda x: inside[id(x)] if id(x) in inside else Far(x) if isinstance(x, Tensor) else x, out)


def copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """What `torch.tensor(values, device="far")` comes through."""
    near = [x.near if isinstance(x, Far) else x for x in (source, target)]
    near[1].copy_(near[0])
    return target


def registered() -> torch.library.Library:
    """The device made known to torch, and what makes tensors on it out of nothing."""
    _setup_privateuseone_for_python_backend("far", backend_module=Machine())
    library = torch.library.Library("aten", "IMPL")
    library.impl("_copy_from", copied, "PrivateUse1")
    for name in torch._C._dispatch_get_all_op_names():
        overloads, _, overload = name.removeprefix("aten::").partition(".")
        if not name.startswith("aten::") or not hasattr(aten, overloads) or \
                torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
            continue
        operation = getattr(getattr(aten, overloads), overload or "default", None)
        takes = operation._schema.arguments if operation else []
        if any(each.name == "device" for each in takes) and not any("Tensor" in str(each.type) for each in takes):
            library.impl(name.removeprefix("aten::"), lambda *a, of=operation, **k: run(of, a, k), "PrivateUse1")
    return library


LIBRARY = registered()                          # what it registers lives as long as it does
FAR = torch.device("far", 0)
