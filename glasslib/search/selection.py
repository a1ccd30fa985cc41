"""Who breeds and who survives in the genetic searches."""

from collections.abc import Callable

import numpy as np


def tournament(n: int, popsize: int, compare: Callable, *, rng: np.random.Generator) -> np.ndarray:
    """Indices (n, 2) of parents, each the winner of a duel between two random members; a draw is decided by lot.

    Args:
        compare: (a, b) index arrays -> > 0 where a wins, < 0 where b wins, 0 on a draw.
    """
    n_duels = 2 * n
    n_rounds = -(-2 * n_duels // popsize)
    drawn = np.concatenate([rng.permutation(popsize) for _ in range(n_rounds)])[: 2 * n_duels]
    duels = drawn.reshape(n_duels, 2)
    result = compare(duels[:, 0], duels[:, 1])
    winners = np.where(result > 0, duels[:, 0], duels[:, 1])
    for i in np.flatnonzero(result == 0):
        winners[i] = rng.choice(duels[i])
    return winners.reshape(n, 2)


def survive(scores: np.ndarray, n: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose n rows of `scores` (m, k): whole fronts first, of the one that does not fit the loneliest.

    Returns:
        The rows kept (n,), their ranks (n,), 0 for the front, and their crowding distances (n,).
    """
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
    from pymoo.util.randomized_argsort import randomized_argsort

    crowding_distance = get_crowding_function("cd")
    cost = -scores  # pymoo minimises
    kept, ranks, crowding = [], [], []
    for rank, front in enumerate(NonDominatedSorting().do(cost, n_stop_if_ranked=n)):
        n_room = n - sum(map(len, kept))
        distance = crowding_distance.do(cost[front], n_remove=max(0, len(front) - n_room))
        order = np.arange(len(front))
        if len(front) > n_room:
            order = randomized_argsort(distance, order="descending", method="numpy", random_state=rng)[:n_room]
        kept.append(front[order])
        ranks.append(np.full(len(order), rank))
        crowding.append(distance[order])
    return np.concatenate(kept), np.concatenate(ranks), np.concatenate(crowding)
