"""Errors and masks from Gram matrices: against the vectors themselves, and against every mask there is."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pure.gram import error_vector, fitted_weights, gram_matrix
from pure.shortest import best_masks, gap_cost


def residuals(seed: int, steps: int = 8, size: int = 40) -> np.ndarray:
    """Vectors that change smoothly, as residuals do."""
    drawn = np.random.default_rng(seed).normal(size=(3, size))
    times = np.linspace(0, 1, steps)
    return np.stack([drawn[0] + t * drawn[1] + np.sin(3 * t) * drawn[2] for t in times])


def test_inner_products_are_taken_in_fp64_and_scaled_alike() -> None:
    vectors = residuals(3)
    gram = gram_matrix(vectors)
    assert gram == pytest.approx(vectors @ vectors.T * 8 / (vectors**2).sum())
    assert gram_matrix((vectors * 1e30).astype(np.float32)) == pytest.approx(gram, rel=1e-5)  # squares beyond fp32
    assert not gram_matrix(np.zeros((3, 5))).any()


@hypothesis.given(seed=st.integers(0, 99), picked=st.sets(st.integers(0, 6), min_size=1, max_size=3))
def test_fitted_weights_are_those_of_least_squares_that_add_up_to_one(seed: int, picked: set[int]) -> None:
    vectors, history = residuals(seed) + np.random.default_rng(seed).normal(size=(8, 40)), sorted(picked, reverse=True)
    weights = fitted_weights(gram_matrix(vectors), history, 7, ridge=0.0)
    newest = vectors[history[0]]
    rest = np.stack([vectors[t] - newest for t in history[1:]], axis=1) if len(history) > 1 else np.zeros((40, 0))
    free, *_ = np.linalg.lstsq(rest, vectors[7] - newest, rcond=None)
    assert weights[1:] == pytest.approx(free, abs=1e-6)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_gram_matrix_has_the_error_of_every_prediction() -> None:
    vectors = residuals(3)
    gram, scale = gram_matrix(vectors), float(np.square(vectors).sum(1).mean())
    weights = np.array([1.7, -0.9, 0.2])
    off = error_vector(8, (5, 3, 2), 7, weights)
    true = np.square(vectors[7] - 1.7 * vectors[5] + 0.9 * vectors[3] - 0.2 * vectors[2]).sum()
    assert off @ gram @ off * scale == pytest.approx(true, rel=1e-6)


def test_residuals_of_zeros_have_weights_all_the_same() -> None:
    gram = gram_matrix(np.zeros((5, 3)))
    assert fitted_weights(gram, (2, 1, 0), 4).tolist() == [1.0, 0.0, 0.0]
    assert fitted_weights(gram, (2,), 4).tolist() == [1.0]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_shortest_path_is_the_best_of_all_masks(seed: int, depth: int) -> None:
    moves = (-np.random.default_rng(seed).uniform(0.05, 0.3, size=8)).tolist()
    cost = gap_cost(gram_matrix(residuals(seed)), moves)

    def total(mask: tuple[int, ...]) -> float:
        computed = [at for at, entry in enumerate(mask) if entry]
        histories = [tuple(reversed(computed[: n + 1]))[:depth] for n in range(len(computed))]
        return sum(cost(history, after) for history, after in zip(histories, [*computed[1:], 8], strict=True))

    best = best_masks(8, depth, cost)
    assert sorted(best) == list(range(1, 9))
    for count, found in best.items():
        every = [(1, *rest) for rest in itertools.product((0, 1), repeat=7) if sum(rest) == count - 1]
        assert found.entries[0] == 1 and sum(found.entries) == count
        assert found.cost == pytest.approx(min(map(total, every)), rel=1e-9, abs=1e-15)
        assert total(found.entries) == pytest.approx(found.cost, rel=1e-9, abs=1e-15)


def test_the_cost_of_a_gap_is_how_far_its_steps_push_together() -> None:
    vectors, moves = residuals(1), [-0.1 * (1 + step) for step in range(8)]
    gram, scale = gram_matrix(vectors), float(np.square(vectors).sum(1).mean())
    off = sum(moves[t] * (vectors[t] - vectors[2]) for t in (3, 4))
    assert gap_cost(gram, moves)((2,), 5) * scale == pytest.approx(float(np.square(off).sum()), rel=1e-9)
    assert gap_cost(gram, moves)((2, 1), 3) == 0.0


def test_no_gap_is_longer_than_the_longest() -> None:
    best = best_masks(10, 2, gap_cost(gram_matrix(residuals(2, steps=10)), [-0.1] * 10), longest=3)
    assert min(best) == 3
    for found in best.values():
        assert "0000" not in "".join(map(str, found.entries))
