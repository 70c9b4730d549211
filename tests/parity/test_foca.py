"""FoCa: where cache-dit's calibrator, which is run, departs from its own equations, and ours does not."""

import torch
from cache_dit.caching.cache_contexts.calibrators.foca import FoCaCalibrator

from pure.transforms import foca


def test_a_line_is_continued_and_the_peer_takes_steps_for_distances() -> None:
    peer, found = FoCaCalibrator(), {}
    for step in range(4):
        peer.mark_step_begin()
        if step % 2 == 0:
            peer.update(torch.tensor([float(step)]))
        else:
            found[step] = peer.approximate().item()
    assert found[3] == 4.0, "a slope of 2 in 2 steps is taken for one of 2 in 1"
    assert sum(w * t for w, t in zip(foca().weights((2, 0, -1), 3, 0), (2, 0), strict=False)) == 3.0


def test_the_peers_weights_go_back_to_the_first_step() -> None:
    """With unit vectors as values a forecast is its own weights; every second step is computed."""
    peer, unit, last = FoCaCalibrator(), torch.eye(8, dtype=torch.float64), torch.zeros(8)
    for step in range(16):
        peer.mark_step_begin()
        if step % 2 == 0:
            peer.update(unit[step // 2])
        else:
            last = peer.approximate()
    assert (last[:6] != 0).all(), "of steps up to 15 before"
    assert len(foca().weights((14, 12, 10), 15, 0)) == foca().history == 3
