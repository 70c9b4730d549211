"""Name the emoji and the background of a picture by looking them up.

The background is the named colour nearest to the median of the border pixels. The
emoji is the training emoji that comes closest in squared pixel distance on that
background, over every size, position and mirror that training used.

Shapes: M pictures, N emoji, G placements of each, P = 64 x 64 pixels.
"""

import torch
from torch import Tensor

from training import data


def backgrounds(pictures: Tensor) -> Tensor:
    """Index of the background of each picture, (M,); pictures (M, 3, H, W) in [0, 1]."""
    edges = [pictures[..., 0, :], pictures[..., -1, :]]
    edges += [pictures[..., :, 0], pictures[..., :, -1]]
    colour = torch.cat(edges, -1).median(-1).values
    return torch.cdist(colour, data.colours()).argmin(1)


def emoji(pictures: Tensor, sprites: Tensor) -> Tensor:
    """Index of the nearest training emoji of each picture, (M,).

    A template is ``ink + clear * ground``: premultiplied colour, one minus opacity,
    and the picture's own background, so that products with ink and clear suffice.

    Args:
        pictures: (M, 3, H, W) in [0, 1].
        sprites: as ``data.load_emoji`` returns them, (N, K, H, W, 4).
    """
    ground = data.colours()[backgrounds(pictures)]
    flat = pictures.flatten(1)
    tinted = (pictures * ground[:, :, None, None]).sum(1).flatten(1)
    distances = []
    for sizes in sprites:
        ink, clear = _placements(sizes)
        mixed = torch.einsum("gcp,gp->gc", ink, clear)
        norms = (
            ink.square().sum((1, 2))
            + 2 * ground @ mixed.T
            + ground.square().sum(1, keepdim=True) * clear.square().sum(1)
        )
        products = flat @ ink.flatten(1).T + tinted @ clear.T
        distances.append((norms - 2 * products).min(1).values)
    return torch.stack(distances, 1).argmin(1)


def _placements(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Every placement of one emoji: ink (G, 3, P) and clear (G, P), P = H x W."""
    both = torch.cat([sizes, sizes.flip(2)])
    moves = range(-data.SHIFT, data.SHIFT + 1)
    moved = torch.cat([both.roll((y, x), (1, 2)) for y in moves for x in moves])
    ink = moved[..., :3].float().div_(255).permute(0, 3, 1, 2).flatten(2)
    return ink, 1 - moved[..., 3].float().flatten(1) / 255
