"""Situations on many ranks, and what a rank reports of them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pure
from pure import Shared
from pure.attention import attend
from pure.distributed import Sizes, context_parallel, guidance_parallel, make_mesh, tensor_agreement, tensor_parallel
from pure.testing import toys
from pure.testing.situation import Model, Situation
from pure.tree import map_samples

Report = list[tuple[torch.Tensor, tuple[pure.Decision, ...]]]


@attrs.frozen(kw_only=True)
class Way:
    """A way to divide a run among ranks.

    Attributes:
        sizes: of the mesh.
        options: of `context_parallel`.
        parameters: divide them too, along axis "tp", and let the first of that axis decide.
        error: how far a prediction may be from that of one process, relative to its size; None where only
            rounding moves it. The decisions are then those of one process, too.
    """

    sizes: Sizes
    options: Mapping[str, Any] = {}
    parameters: bool = False
    error: float | None = None


def shard(situation: Situation, sizes: Sizes, parameters: bool = False, **options: Any) -> Situation:
    """The situation on this rank, with its tokens divided, and its parameters if asked for."""
    mesh = make_mesh(sizes)
    transform = pure.compose(situation.transform, context_parallel(mesh, **options), guidance_parallel(mesh))
    if not parameters:
        return attrs.evolve(situation, transform=transform)
    model = situation.model
    part = attrs.evolve(model, params=tensor_parallel(model.params, model.denoiser, mesh))
    return attrs.evolve(situation, model=part, transform=pure.compose(transform, tensor_agreement(mesh)))


def report(situation: Situation) -> Report:
    """Predictions and decisions of all steps."""
    return [(entry.prediction, entry.info.decisions) for entry in situation.trace()]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far two predictions are apart, relative to the size of the second."""
    return float((a - b).abs().max() / (1 + b.abs().max()))


def same_reports(a: Report, b: Report) -> bool:
    """Whether two ranks got the same, bit for bit."""
    return all(torch.equal(x, y) and d == e for (x, d), (y, e) in zip(a, b, strict=True))


class Collectives(TorchDispatchMode):
    """Count what this rank sends, by the names of torch's functional collectives."""

    NAMES = ("all_to_all_single", "all_gather_into_tensor", "all_reduce", "reduce_scatter_tensor", "broadcast")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator._schema.name.split("::")[1]
        if name in self.NAMES:
            self.counts[name] += 1
            self.bytes[name] += args[0].numel() * args[0].element_size()
        return operator(*args, **(kwargs or {}))


def numbers(state: Any) -> int:
    """How many numbers the caches remember, without the counters."""
    found = []
    for each in state.values() if isinstance(state, dict) else [state]:
        map_samples(lambda leaf: found.append(leaf.numel()) or leaf, (each.cache.probe, each.cache.history))
    return sum(found)


# A denoiser of one stream, whose blocks add to every token an amount of its own times the timestep.


@pure.state
class Stream:
    image: torch.Tensor  # (B, N, 1)


@pure.state
class Amounts:
    time: torch.Tensor  # (B, 1, 1)
    steady: Shared  # (N, 1)
    moving: Shared  # (N, 1)


def prepare(params, conditioning):
    return conditioning


def embed(params, prepared, latents, timestep):
    context = Amounts(time=timestep[:, None, None].to(latents.dtype), steady=prepared[0], moving=prepared[1])
    return Stream(image=latents), context


def block(params, hidden, context, attention):
    added = context.steady.value + context.moving.value * context.time
    return Stream(image=hidden.image + params["amount"] * added)


def head(params, hidden, context):
    return hidden.image


def image_of(hidden):
    return hidden.image


def uneven(steady: list[float], moving: list[float], blocks: int = 3) -> Model:
    """A model whose tokens move as far as they are told."""
    denoiser = pure.Denoiser(
        prepare=prepare,
        embed=embed,
        blocks=tuple(pure.Block(block, f"blocks.{i}.") for i in range(blocks)),
        head=head,
        attend=attend,
        probe=image_of,
        streams=("image",),
        per_token=pure.PerToken(tables=(("steady", ("image",)), ("moving", ("image",)))),
    )
    params = {f"blocks.{i}.amount": torch.tensor(1.0) for i in range(blocks)}
    conditioning = tuple(Shared(value=torch.tensor(values)[:, None]) for values in (steady, moving))
    return Model(
        name="uneven",
        denoiser=denoiser,
        params=params,
        conditioning=lambda seeds: conditioning,
        latents=toys.rows((len(steady), 1), 0),
    )
