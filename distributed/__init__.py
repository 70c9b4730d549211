"""Meshes, transforms that run one denoiser on many ranks, and the processes that are those ranks."""

import importlib as _importlib
import typing as _typing

from pure.distributed.mesh import Sizes, make_mesh

if _typing.TYPE_CHECKING:
    from pure.distributed.launch import run
    from pure.distributed.sequence import context_parallel
    from pure.distributed.tensor import check_tensor_parallel, tensor_parallel
    from pure.distributed.tensor_decisions import tensor_agreement
else:
    # The sizes are read by who only parses a command; the rest imports what a model needs.
    _LATER = {
        "check_tensor_parallel": "tensor",
        "context_parallel": "sequence",
        "run": "launch",
        "tensor_agreement": "tensor_decisions",
        "tensor_parallel": "tensor",
    }

    def __getattr__(name: str) -> object:
        if name in _LATER:
            return getattr(_importlib.import_module(f"pure.distributed.{_LATER[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Sizes",
    "check_tensor_parallel",
    "context_parallel",
    "make_mesh",
    "run",
    "tensor_agreement",
    "tensor_parallel",
]
