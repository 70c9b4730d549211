"""What in a context speaks of single tokens, as data beside a model.

Where tokens are divided among ranks, blocks get a share of every stream and of what is named
here, and the rest of the context as it is. The model itself is written for all tokens.
"""

import attrs


@attrs.frozen(kw_only=True)
class PerToken:
    """The fields of a context that have something for every token.

    Attributes:
        tables: names of fields with one entry per token, each with the streams whose tokens these
            are, in order. A tensor or a tuple of tensors, along dimension 0 in a `Shared` node, else 1.
        masks: names of masks of keys (B, 1, 1, tokens), or None, likewise; the streams stand in the
            order in which blocks put them together.
        counts: names of static fields that say how many tokens at the beginning of a stream are special, or None.

    >>> PerToken(tables=(("rotary", ("text", "image")),)).masks
    ()
    """

    tables: tuple[tuple[str, tuple[str, ...]], ...] = ()
    masks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    counts: tuple[tuple[str, str], ...] = ()
