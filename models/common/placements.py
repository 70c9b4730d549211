"""Placements that the families have in common; each family's own are beside its config.

Attention is split by heads and feed-forward networks by features: two products in a row, of which
the first gives every rank its own outputs and the second adds up what the ranks made of them.
The modulations of the blocks, up to a third of all parameters, are split too, and gathered.
"""

from collections.abc import Iterable, Mapping

from pure.sharding import Kind, Part, Placement

WIDENING = 4  # of most feed-forward networks


def placements(
    prefixes: str | Iterable[str],
    *,
    column: Mapping[str, tuple[Part, ...]],
    row: Mapping[str, tuple[Part, ...]],
    gathered: Mapping[str, tuple[Part, ...]] | None = None,
    norm: Mapping[str, tuple[Part, ...]] | None = None,
) -> tuple[Placement, ...]:
    """Return placements by kind, of name patterns that follow one of the prefixes.

    >>> [each.pattern for each in placements(("a.*.", "b.*."), column={"up": (Part(8),)}, row={})]
    ['a.*.up', 'b.*.up']
    """
    tables = {Kind.COLUMN: column, Kind.ROW: row, Kind.GATHERED: gathered or {}, Kind.NORM: norm or {}}
    return tuple(
        Placement(prefix + pattern, kind, parts)
        for prefix in ((prefixes,) if isinstance(prefixes, str) else prefixes)
        for kind, table in tables.items()
        for pattern, parts in table.items()
    )


def double(heads: Part, inner: tuple[Part, ...], wide: tuple[Part, ...]) -> tuple[Placement, ...]:
    """Return the placements of blocks of two streams, as in FLUX.1.

    Args:
        heads: of the attention.
        inner: features of the feed-forward networks after their activation.
        wide: the same before it; two parts where one gates the other.
    """
    return placements(
        "transformer_blocks.*.",
        column={"attn.to_[qkv]": (heads,), "attn.add_[qkv]_proj": (heads,), **feeds("net.0.proj", wide)},
        row={"attn.to_out.0": (heads,), "attn.to_add_out": (heads,), **feeds("net.2", inner)},
        gathered={"norm1.linear": (Part(6 * heads.features),), "norm1_context.linear": (Part(6 * heads.features),)},
    )


def feeds(name: str, parts: tuple[Part, ...]) -> dict[str, tuple[Part, ...]]:
    """Return one line of a table for the feed-forward networks of both streams.

    >>> list(feeds("net.2", (Part(8),)))
    ['ff.net.2', 'ff_context.net.2']
    """
    return {f"ff.{name}": parts, f"ff_context.{name}": parts}


def single(heads: Part, inner: tuple[Part, ...], wide: tuple[Part, ...]) -> tuple[Placement, ...]:
    """Return the placements of blocks of one sequence, as in FLUX.1; see `double`."""
    return placements(
        "single_transformer_blocks.*.",
        column={"attn.to_[qkv]": (heads,), "proj_mlp": wide},
        row={"proj_out": (heads, *inner)},
        gathered={"norm.linear": (Part(3 * heads.features),)},
    )
