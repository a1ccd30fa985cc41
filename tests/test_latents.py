import numpy as np
import pytest

from glasslib.latents import ClassMixture, Normal, Product, Tokens, TruncatedNormal

SPACES = [
    Normal(5),
    Normal(3, bound=0.5),
    TruncatedNormal(4, truncation=0.7),
    Tokens(6, 11),
    ClassMixture(9, n_active=3),
    ClassMixture(9, n_active=3, encoding="softmax_bits"),
    Product((TruncatedNormal(2), Tokens(3, 4), ClassMixture(5, encoding="softmax_bits"))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_contract(space):
    x = space.sample(200, rng=np.random.default_rng(0))
    assert x.shape == (200, space.dim)
    assert x.dtype == np.float64
    assert space.contains(x).all()
    assert np.array_equal(x, space.sample(200, rng=np.random.default_rng(0)))
    assert not np.array_equal(x, space.sample(200, rng=np.random.default_rng(1)))
    assert space.lower.shape == space.upper.shape == space.kinds.shape == (space.dim,)
    assert (space.lower < space.upper).all()
    assert space.sample(0, rng=np.random.default_rng(0)).shape == (0, space.dim)
    assert space == type(space)(**vars(space) if not isinstance(space, Product) else {"parts": space.parts})


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_contains_looks_at_every_variable(space):
    x = space.sample(1, rng=np.random.default_rng(0))
    for i in range(space.dim):
        for bad in (space.upper[i] + 1, space.lower[i] - 1, np.nan, np.inf):
            outside = x.copy()
            outside[0, i] = bad
            assert not space.contains(outside)[0]
        half = x.copy()
        half[0, i] = (space.lower[i] + space.upper[i]) / 2 + 0.01
        half[0, i] = np.floor(half[0, i]) + 0.25 if space.kinds[i] != "real" else half[0, i]
        assert space.contains(half)[0] == (space.kinds[i] == "real")
    with pytest.raises(ValueError, match=r"x must have shape \(n, "):
        space.contains(x[:, 1:])


def test_truncated_normal_is_redrawn_not_clipped():
    z = TruncatedNormal(50, truncation=1.0).sample(2000, rng=np.random.default_rng(0))
    assert (np.abs(z) == 1.0).sum() == 0
    # a standard normal cut at 1 has standard deviation 0.5397 and is not a uniform one (0.5774)
    assert abs(z.std() - 0.5397) < 0.005


def test_tokens_reach_every_id():
    x = Tokens(20, 7).sample(100, rng=np.random.default_rng(0))
    assert set(np.unique(x)) == set(range(7))
    assert Tokens(3, 7).kinds.tolist() == ["integer"] * 3


def test_mixture_on_the_simplex_by_hand():
    space = ClassMixture(4, n_active=2)
    x = np.array([[0.0, 0.5, 0.0, 0.0], [0.2, 0.6, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = [[0, 1, 0, 0], [0.25, 0.75, 0, 0], [0.25, 0.25, 0.25, 0.25]]
    assert np.allclose(space.weights(x), expected, atol=1e-12)
    sampled = space.weights(space.sample(100, rng=np.random.default_rng(0)))
    assert np.allclose(sampled.sum(axis=1), 1)
    assert (sampled > 0).sum(axis=1).max() == 2
    assert (sampled > 0).sum(axis=1).min() == 1


def test_softmax_bits_cannot_reach_a_pure_class():
    """CLIP-GLaSS's encoding: five set bits of 1000 carry 1.3 % of the mass (papers.md)."""
    space = ClassMixture(1000, n_active=5, encoding="softmax_bits")
    x = np.zeros((1, 1000))
    x[0, :5] = 1
    weights = space.weights(x)
    assert abs(weights[0, :5].sum() - 0.0135) < 0.0005
    assert abs(weights.sum() - 1) < 1e-12
    bits = space.sample(400, rng=np.random.default_rng(0))
    assert abs(bits.sum(axis=1).mean() - 5) < 0.5


def test_product_puts_its_parts_side_by_side():
    space = SPACES[-1]
    assert space.dim == 10
    assert space.kinds.tolist() == ["real"] * 2 + ["integer"] * 3 + ["binary"] * 5
    assert space.upper.tolist() == [2, 2, 3, 3, 3, 1, 1, 1, 1, 1]
    x = space.sample(4, rng=np.random.default_rng(0))
    z, tokens, bits = space.split(x)
    assert (z.shape, tokens.shape, bits.shape) == ((4, 2), (4, 3), (4, 5))
    assert np.array_equal(np.concatenate([z, tokens, bits], axis=1), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0), "dim must be above 0, got 0"),
        (lambda: Normal(3, bound=-1), "bound must be above 0, got -1"),
        (lambda: TruncatedNormal(3, truncation=0.0), "truncation must be above 0"),
        (lambda: TruncatedNormal(3, truncation=float("nan")), "truncation must be above 0, got nan"),
        (lambda: Tokens(2, 0), "vocab_size must be above 0"),
        (lambda: ClassMixture(3, n_active=4), "n_active must be at most n_classes=3, got 4"),
        (lambda: ClassMixture(3, n_active=1, encoding="bits"), "encoding must be 'simplex' or 'softmax_bits'"),
        (lambda: Product(()), "at least one latent space"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
