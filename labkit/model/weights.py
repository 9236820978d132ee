"""How many bytes of weights a pass reads, counted from the real tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from labkit.model.forward import Forward, Weighed, offers


def read_bytes(model: Forward | nn.Module | Weighed) -> float:
    """Bytes of weights that a pass of one row reads.

    A decoder that is `Weighed` says how many. For any other torch module, transformers' models
    included, the tensors are counted. Raises TypeError for what is neither.
    """
    weighed = offers(model, Weighed)
    if weighed is not None:
        return weighed.weight_bytes
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} is no torch module: it needs `weight_bytes`.")
    return counted_bytes(model)


def counted_bytes(module: nn.Module) -> float:
    """Bytes of a module's weights that a pass of one row reads.

    Each parameter counts once, even if several modules share it. An embedding table that no linear
    layer uses counts as one row. Of a mixture of experts, ours or transformers', as many count as a
    row uses. Submodules with packed weights outside their parameters report their bytes
    (`Weighed`).
    """
    return _held_bytes(module) - sum(map(_idle_bytes, module.modules()))


def _idle_bytes(module: nn.Module) -> float:
    """Bytes of the experts of a mixture that one row does not use; 0 for any other module."""
    experts = getattr(module, "experts", None)
    router: Any = getattr(module, "gate", None)
    if not isinstance(experts, nn.Module) or not hasattr(router, "top_k"):
        return 0
    used, count = int(router.top_k), int(router.num_experts)
    return _held_bytes(experts) * (count - used) / count


def _held_bytes(module: nn.Module) -> float:
    """Bytes of a module's weights, all experts of a mixture included."""
    modules = list(module.modules())
    multiplied = {id(m.weight) for m in modules if isinstance(m, nn.Linear)}
    tables = {id(m.weight) for m in modules if isinstance(m, nn.Embedding)} - multiplied
    plain = sum(tensor_bytes(p) // (len(p) if id(p) in tables else 1) for p in module.parameters())
    packed = sum(m.weight_bytes for m in modules if m is not module and isinstance(m, Weighed))
    return plain + packed


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; for a tensor that wraps others, as in torchao, bytes of the inner ones."""
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(tensor_bytes(getattr(tensor, name)) for name in names)
