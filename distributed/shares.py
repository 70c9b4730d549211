"""How much of something each rank has.

>>> shares(7, 3)
(3, 2, 2)
"""


def shares(total: int, count: int) -> tuple[int, ...]:
    """Divide `total` among `count` ranks as evenly as whole numbers allow, the first ones getting more."""
    least, more = divmod(total, count)
    return tuple(least + (index < more) for index in range(count))


def start(lengths: tuple[int, ...], index: int) -> int:
    """Return where the share of a rank begins.

    >>> start((3, 2, 2), 2)
    5
    """
    return sum(lengths[:index])
