"""Crossover: which matings cross, what a child takes from which parent, and CLIP-GLaSS's crossover as it ran."""

import numpy as np
import pytest

from glasslib.bench.parity import exchanged_bits
from glasslib.latents import ClassMixture, Normal, Product, TruncatedNormal
from glasslib.search.operators import AS_IT_RAN, GLASS, Breeder, Operators

STILL = {"mutation_prob": 0.0, "bitflip_prob": 0.0}
MIXED = Product((TruncatedNormal(40), ClassMixture(60, encoding="softmax_bits")))


def bred(space, operators: Operators, *, n_matings: int = 400):
    """Parents (n, 2, dim) that differ everywhere, and their children (n, 2, dim)."""
    rng = np.random.default_rng(0)
    parents = space.sample(2 * n_matings, rng=rng)
    bits = space.kinds == "binary"
    parents[::2, bits], parents[1::2, bits] = 0, 1
    pairs = np.arange(2 * n_matings).reshape(-1, 2)
    children = Breeder(space, operators).children(parents, pairs, rng)
    return parents.reshape(n_matings, 2, -1), np.stack([children[:n_matings], children[n_matings:]], axis=1)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_matings_that_do_not_cross_give_their_parents_and_the_others_do_not(prob):
    parents, children = bred(Normal(30, bound=3.0), Operators(crossover_prob=prob, **STILL))
    same = (parents == children).all(axis=(1, 2))
    assert abs(same.mean() - (1 - prob)) < 0.06
    # a mating that crosses changes each variable with chance one half, of both children
    changed = (parents != children)[~same].mean(axis=(0, 2)) if prob else np.array([0.5, 0.5])
    assert np.abs(changed - 0.5).max() < 0.03
    # and nothing else: children lie around the pair, their mean is the parents'
    np.testing.assert_allclose(children.mean(axis=1)[same], parents.mean(axis=1)[same])


def test_bits_that_do_not_cross_are_the_parents_own_in_their_order():
    parents, children = bred(ClassMixture(60, encoding="softmax_bits"), Operators(hux_prob=0.4, **STILL))
    crossed = (parents != children).any(axis=(1, 2))
    assert abs(crossed.mean() - 0.4) < 0.06
    assert np.array_equal(children[~crossed], parents[~crossed])
    assert (children[crossed][:, 0].sum(axis=1) == 30).all() and (children[crossed][:, 1].sum(axis=1) == 30).all()


def test_kinds_cross_together_where_one_chance_decides_and_apart_where_each_has_its_own():
    together, apart = {}, {}
    for found, options in ((together, {"mixed_prob": 0.6}), (apart, {"crossover_prob": 0.6, "hux_prob": 0.6})):
        parents, children = bred(MIXED, Operators(**options, **STILL))
        found["z"] = (parents != children)[:, :, :40].any(axis=(1, 2))
        found["bits"] = (parents != children)[:, :, 40:].any(axis=(1, 2))
        assert abs(found["z"].mean() - 0.6) < 0.06 and abs(found["bits"].mean() - 0.6) < 0.06
    assert np.array_equal(together["z"], together["bits"])
    assert 0.4 < (apart["z"] == apart["bits"]).mean() < 0.65  # .52 by chance


def test_one_kind_alone_keeps_its_own_chance():
    parents, children = bred(Normal(30, bound=3.0), Operators(crossover_prob=0.0, mixed_prob=1.0, **STILL))
    assert np.array_equal(parents, children)


@pytest.mark.parametrize(("operators", "share"), [(AS_IT_RAN, 0.447), (GLASS, 0.106)])
def test_a_child_takes_as_many_bits_from_the_other_parent_as_measured_in_pymoo_0_4_2(operators, share):
    assert abs(exchanged_bits(operators)[0] - share) <= 0.02
