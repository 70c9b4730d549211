"""What one of many ranks computes, sends and waits for in a step, traced without those ranks.

The step of the first rank, whose share is the largest, runs on fake tensors, which have shapes and no numbers, in a
group of fake processes, which send nothing: any number of ranks and any size of a model take seconds on one core.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

import pure
from pure.distributed import Sizes, make_mesh, place_parts
from pure.sharding import Sharding

HOST = 8
"""GPUs of a host, which are neighbouring ranks."""
ATTENTION = (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,)


@attrs.frozen
class Product:
    """A product of matrices, or an attention: its floating-point operations, and bytes read and written."""

    flops: int
    bytes: int
    attention: bool = False


@attrs.frozen
class Message:
    """A collective that is launched.

    Attributes:
        name: of torch's functional collective.
        ranks: that this one exchanges something with, itself included.
        bytes: that leave this rank, or come to it, whichever is more.
        across: whether some of the ranks are on other hosts.
    """

    name: str
    ranks: int
    bytes: int
    across: bool


@attrs.frozen
class Arrival:
    """Waiting for the message that was launched as number `message` of the trace."""

    message: int


Event = Product | Message | Arrival


@attrs.frozen
class Trace:
    """A step of one rank.

    Attributes:
        outside: events of embedding and head.
        blocks: events of the first block of each kind, by kind.
        counts: how many blocks of each kind there are.
    """

    outside: tuple[Event, ...]
    blocks: dict[str, tuple[Event, ...]]
    counts: dict[str, int]

    @property
    def parts(self) -> list[tuple[int, tuple[Event, ...]]]:
        """How often each part of the step comes, and its events."""
        return [(1, self.outside), *((self.counts[kind], events) for kind, events in self.blocks.items())]

    @property
    def flops(self) -> int:
        """Floating-point operations of the step."""
        return sum(n * sum(each.flops for each in part if isinstance(each, Product)) for n, part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes that leave the rank in the step."""
        return sum(n * sum(each.bytes for each in part if isinstance(each, Message)) for n, part in self.parts)

    @property
    def collectives(self) -> Counter[str]:
        """Number of collectives of the step, by name."""
        found: Counter[str] = Counter()
        for count, part in self.parts:
            found.update({each.name: 0 for each in part if isinstance(each, Message)})
            for each in part:
                if isinstance(each, Message):
                    found[each.name] += count
        return found


class Recorder(TorchDispatchMode):
    """Write down products, collectives and waits in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._launched: deque[int] = deque()  # messages are waited for in the order in which they were launched
        self._fresh = False  # torch waits for each at once where tensors are fake; what the program does comes later

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        packet, name = operator._overloadpacket, operator._schema.name.split("::")[1]
        if packet in ATTENTION:
            flops = sdpa_flop_count(*(each.shape for each in args[:3]))
            self.events.append(Product(flops, _bytes(*args[:3], out[0]), attention=True))
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            self.events.append(Product(flops, _bytes(*args, out)))
        elif name in COLLECTIVES:
            self._launched.append(len(self.events))
            self._fresh = True
            self.events.append(_message(name, args, out))
        elif name == "wait_tensor" and self._fresh:
            self._fresh = False
        elif name == "wait_tensor":
            self.events.append(Arrival(self._launched.popleft()))
        return out


def _message(name: str, args: Sequence[Any], out: torch.Tensor) -> Message:
    group = dist.distributed_c10d._resolve_process_group(args[-1])
    hosts = [rank // HOST for rank in dist.get_process_group_ranks(group)]
    if name != "all_to_all_single":
        count = len(hosts)
        # Of a sum every part is added, then sent round.
        size = 2 * _bytes(args[0]) * (count - 1) // count if name == "all_reduce" else _bytes(out) - _bytes(args[0])
        return Message(name, count, size, across=len(set(hosts)) > 1)
    own, row = dist.get_rank(group), args[0].element_size() * args[0].shape[1:].numel()
    received, sent = ([0 if at == own else n for at, n in enumerate(each)] for each in args[1:3])
    others = [host for host, *rows in zip(hosts, received, sent, strict=True) if any(rows)]
    return Message(name, 1 + len(others), row * max(sum(received), sum(sent)), across=any(host != 0 for host in others))


def _bytes(*values: Any) -> int:
    return sum(each.numel() * each.element_size() for each in values if isinstance(each, torch.Tensor))


COLLECTIVES = ("all_to_all_single", "all_gather_into_tensor", "all_reduce")


@contextlib.contextmanager
def fake_ranks(sizes: Sizes) -> Iterator[DeviceMesh]:
    """Be the first of so many ranks, the others of which do not exist; outside of a group of processes."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=sizes.total)
    try:
        yield make_mesh(sizes)
    finally:
        dist.destroy_process_group()


def traced(
    denoiser: pure.Denoiser,
    shapes: dict[str, tuple[int, ...]],
    request: Any,
    mesh: DeviceMesh,
    transform: pure.Transform = pure.identity,
    dtype: torch.dtype = torch.bfloat16,
) -> Trace:
    """Return a computed step of this rank.

    Args:
        denoiser: of a family.
        shapes: of all its parameters, by name; what axis "tp" of the mesh divides is divided.
        request: called without arguments, returns conditioning and latents.
        mesh: of `fake_ranks`.
        transform: such as `context_parallel(mesh)`.
        dtype: of parameters.
    """
    divided, kinds = transform(denoiser), [_kind(block) for block in denoiser.blocks]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tp = mesh["tp"].size()
        parts = {
            name: torch.empty(_part(name, shape, denoiser.sharding, tp), dtype=dtype) for name, shape in shapes.items()
        }
        params = divided.bind(place_parts(parts, denoiser, mesh))
        conditioning, latents = request()
        prepared = divided.prepare(params.all, conditioning)
        found, outside = dict[str, tuple[Event, ...]](), Recorder()
        with outside:
            hidden, context = divided.embed(params.all, prepared, latents, torch.ones(1))
        for kind, block, group in zip(kinds, divided.blocks, params.blocks, strict=True):
            if kind not in found:
                with Recorder() as recorder:
                    hidden = block.run(group, hidden, context, divided.attend)
                found[kind] = tuple(recorder.events)
        with Recorder() as head:
            divided.head(params.all, hidden, context)
    first = len(outside.events)
    late = [Arrival(each.message + first) if isinstance(each, Arrival) else each for each in head.events]
    return Trace((*outside.events, *late), found, dict(Counter(kinds)))


def _kind(block: pure.Block) -> str:
    return block.prefix.rstrip("0123456789.").rpartition(".")[2]


def _part(name: str, shape: tuple[int, ...], sharding: Sharding | None, ranks: int) -> tuple[int, ...]:
    cut = None if sharding is None or ranks == 1 else sharding.cut(name, 0, ranks)
    if cut is None:
        return shape
    return *shape[: cut.dim], sum(end - begin for begin, end in cut.runs), *shape[cut.dim + 1 :]
