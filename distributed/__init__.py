"""Meshes, transforms that run one denoiser on many ranks, and the processes that are those ranks."""

import pure.overwritten  # noqa: F401  (says so where another package has replaced this one)
from pure.distributed.context_parallel import context_parallel
from pure.distributed.guidance_parallel import guidance_parallel
from pure.distributed.hosts import Hosts, HostsDiffer, HostsError
from pure.distributed.launch import run
from pure.distributed.mesh import Sizes, make_mesh
from pure.distributed.row_parallel import row_parallel
from pure.distributed.tensor_agreement import tensor_agreement
from pure.distributed.tensor_parallel import check_tensor_parallel, place_parts, tensor_parallel
from pure.distributed.tensor_parallel_module import tensor_parallel_module

__all__ = [
    "Hosts",
    "HostsDiffer",
    "HostsError",
    "Sizes",
    "check_tensor_parallel",
    "context_parallel",
    "guidance_parallel",
    "make_mesh",
    "place_parts",
    "row_parallel",
    "run",
    "tensor_agreement",
    "tensor_parallel",
    "tensor_parallel_module",
]
