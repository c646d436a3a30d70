"""Layers: formulas and derivatives against torch and JAX; dropout, embeddings, chains, and models in front."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from mlp_xp.nn.layers import (
    GELU,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Identity,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Rescale,
    Sigmoid,
    Softplus,
    Tanh,
)
from mlp_xp.nn.layers.base import Layer, Spec, StatefulLayer
from mlp_xp.nn.layers.dropout import Counter, hash32
from mlp_xp.nn.networks import mlp
from mlp_xp_backends import get_backend
from mlp_xp_backends.numpy_namespace import xp as XP
from mlp_xp_backends.trees import leaves, tree_map

ACTIVATIONS = [Identity(), ReLU(), LeakyReLU(0.1), Sigmoid(), Tanh(), Softplus(), GELU()]
LAYERS = [Dense(7, 5), *ACTIVATIONS, LayerNorm(7), BatchNorm(7), Dropout(0.4), Rescale(shift=0.5, scale=2.0)]
ROWS = 6


def named(layer):
    return type(layer).__name__


def drawn(layer, seed=0, models=()):
    """Parameters, state, input and slope of a layer, in float64, with ``models`` axes in front."""
    rng = np.random.default_rng(seed)
    chain = Chain(layer)

    def away(a):
        return a if a.dtype.kind == "i" else a + rng.uniform(0.1, 0.5, (*models, *a.shape))

    params, state = tree_map(away, (chain.init(rng), chain.init_state(rng)))
    x = rng.standard_normal((*models, ROWS, 7))
    dy = rng.standard_normal((*models, ROWS, chain.width(7)))
    return chain, params, state, x, dy


def both_ways(xp, chain, params, state, x, dy):
    y, caches, after = chain.forward(xp, params, state, x, True)
    return y, after, *chain.backward(xp, params, caches, dy)


def close(ours, theirs, rtol=1e-12):
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=rtol)


# Derivatives


@pytest.mark.parametrize("layer", LAYERS, ids=named)
def test_backward_is_the_derivative_that_jax_finds(layer):
    jax = pytest.importorskip("jax")
    chain, params, state, x, dy = drawn(layer)

    def f(params, x):
        return jax.numpy.vdot(chain.forward(get_backend("jax:cpu").xp, params, state, x, True)[0], dy)

    with jax.enable_x64(True):
        grads, dx = jax.grad(f, argnums=(0, 1))(tree_map(jax.numpy.asarray, params), jax.numpy.asarray(x))
    close(both_ways(XP, chain, params, state, x, dy)[2:], (dx, grads))


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_embedding_gradient_is_the_derivative_that_jax_finds(combine):
    jax = pytest.importorskip("jax")
    layer = Embedding(5, 3, ids_per_row=2, combine=combine)
    rng = np.random.default_rng(0)
    params, ids = layer.init(rng), rng.integers(0, 5, (8, 2), dtype=np.int32)
    dy = rng.standard_normal((8, layer.width(2)))
    with jax.enable_x64(True):
        theirs = jax.grad(lambda p: jax.numpy.vdot(layer.forward(get_backend("jax:cpu").xp, p, ids)[0], dy))(
            tree_map(jax.numpy.asarray, params)
        )
    close(layer.gradient(XP, params, ids, dy), theirs)


def torch_functions(torch, layer, params, state):
    """The same layer by torch: a function of its parameters and x."""
    f = torch.nn.functional
    if isinstance(layer, BatchNorm):
        mean, var = (torch.tensor(m)[0] for m in state[0])
        return lambda p, x: f.batch_norm(x, mean, var, p.gamma[0], p.beta[0], True, layer.momentum, layer.eps)
    return {
        "Dense": lambda p, x: f.linear(x, p.W.mT, p.b),
        "ReLU": lambda p, x: f.relu(x),
        "LeakyReLU": lambda p, x: f.leaky_relu(x, 0.1),
        "Sigmoid": lambda p, x: torch.sigmoid(x),
        "Tanh": lambda p, x: torch.tanh(x),
        "Softplus": lambda p, x: f.softplus(x, threshold=1e9),
        "GELU": lambda p, x: f.gelu(x, approximate="tanh"),
        "LayerNorm": lambda p, x: f.layer_norm(x, (7,), p.gamma[0], p.beta[0], layer.eps),
    }[type(layer).__name__]


@pytest.mark.parametrize("layer", [Dense(7, 5), *ACTIVATIONS[1:], LayerNorm(7), BatchNorm(7)], ids=named)
def test_layer_and_its_derivatives_are_those_of_torch(layer):
    torch = pytest.importorskip("torch")
    chain, params, state, x, dy = drawn(layer)
    p, t = tree_map(lambda a: torch.tensor(a, requires_grad=True), (params[0], x))
    y = torch_functions(torch, layer, params, state)(p, t)
    y.backward(torch.tensor(dy))
    ours, _, dx, grads = both_ways(XP, chain, params, state, x, dy)
    close((ours, dx, grads[0]), tree_map(lambda a: a.detach(), (y, t.grad, tree_map(lambda a: a.grad, p))))


def test_batch_norm_keeps_the_running_moments_that_torch_keeps():
    torch = pytest.importorskip("torch")
    layer = BatchNorm(7, momentum=0.2)
    theirs = torch.nn.BatchNorm1d(7, momentum=0.2, dtype=torch.float64)
    params, state = layer.init(np.random.default_rng(0)), layer.init_state(np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((5, ROWS, 7)) + 3.0
    for batch in x:
        _, _, state = layer.forward(XP, params, state, batch, True)
        theirs(torch.tensor(batch))
    close((state.mean[0], state.var[0]), (theirs.running_mean, theirs.running_var))
    close(layer.forward(XP, params, state, x[0], False)[0], theirs.eval()(torch.tensor(x[0])).detach())


# Formulas


@pytest.mark.parametrize("layer", ACTIVATIONS[1:], ids=named)
def test_activation_takes_huge_numbers(layer):
    y, cache = layer.forward(XP, (), np.array([[-1e4, 0.0, 1e4]], dtype=np.float32))
    dx, _ = layer.backward(XP, (), cache, np.ones_like(y))
    assert np.all(np.isfinite(y))
    assert np.all(np.isfinite(dx))


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=named)
def test_activation_keeps_nan(layer):
    y, _ = layer.forward(XP, (), np.array([[np.nan, 1.0]]))
    np.testing.assert_array_equal(np.isnan(y), [[True, False]])


def test_layer_norm_makes_rows_and_batch_norm_columns_of_mean_0_and_variance_1():
    x = 3.0 * np.random.default_rng(0).standard_normal((50, 7)) + 5.0
    rng = np.random.default_rng(0)
    for layer, axis in ((LayerNorm(7, eps=0.0), 1), (BatchNorm(7, eps=0.0), 0)):
        y = Chain(layer).forward(XP, Chain(layer).init(rng), Chain(layer).init_state(rng), x, True)[0]
        np.testing.assert_allclose(y.mean(axis=axis), 0.0, atol=1e-13)
        np.testing.assert_allclose(y.var(axis=axis), 1.0, rtol=1e-13)


def test_batch_norm_of_one_row_is_finite():
    chain, params, state, x, dy = drawn(BatchNorm(7))
    for a in leaves(both_ways(XP, chain, params, state, x[:1], dy[:1])):
        assert np.all(np.isfinite(a))


def test_rescale_takes_bytes_to_the_dtype_of_its_numbers():
    layer = Rescale(shift=10.0, scale=0.5)
    state = tree_map(np.float32, layer.init_state(np.random.default_rng(0)))
    y, _, _ = layer.forward(XP, (), state, np.array([[0, 10, 255]], dtype=np.uint8), False)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [[-5.0, 0.0, 122.5]])


def test_embedding_is_a_product_with_one_hot_rows():
    rng = np.random.default_rng(0)
    ids = np.array([[0, 2, 2], [4, 1, 0], [2, 2, 2]], dtype=np.int32)
    hot = np.eye(5)[ids]  # (rows, ids, n_ids)
    for combine in ("concat", "sum"):
        layer = Embedding(5, 4, ids_per_row=3, combine=combine)
        params = layer.init(rng)
        y, cache = layer.forward(XP, params, ids)
        vectors = hot @ params.E
        np.testing.assert_array_equal(y, vectors.reshape(3, 12) if combine == "concat" else vectors.sum(axis=1))
        dy = rng.standard_normal(y.shape)
        each = dy.reshape(3, 3, 4) if combine == "concat" else np.repeat(dy[:, None], 3, axis=1)
        dx, grads = layer.backward(XP, params, cache, dy)
        assert dx is None
        np.testing.assert_allclose(grads.E, np.einsum("rki,rkd->id", hot, each), rtol=1e-14, atol=1e-14)


# Chains


def test_chain_composes_and_nests():
    rng = np.random.default_rng(0)
    layers = Dense(7, 4), Tanh(), Dense(4, 3)
    flat, nested = Chain(*layers), Chain(layers[0], Chain(*layers[1:]))
    a, b, c = params = flat.init(rng)
    x, dy = rng.standard_normal((ROWS, 7)), rng.standard_normal((ROWS, 3))
    y, _, dx, grads = both_ways(XP, flat, params, flat.init_state(rng), x, dy)
    close(y, np.tanh(x @ a.W + a.b) @ c.W + c.b)
    other = both_ways(XP, nested, (a, (b, c)), nested.init_state(rng), x, dy)
    close((y, dx, leaves(grads)[0]), (other[0], other[2], leaves(other[3])[0]), rtol=0.0)


@pytest.mark.parametrize("entries", [1, 3])
def test_a_chain_refuses_trees_of_another_length(entries):
    chain, x = Chain(Tanh(), Sigmoid()), np.ones((ROWS, 7))
    right, wrong = (((),) * n for n in (2, entries))
    _, caches, _ = chain.forward(XP, right, right, x, True)
    for trees in ((wrong, right), (right, wrong)):
        with pytest.raises(ValueError, match="zip"):
            chain.forward(XP, *trees, x, True)
    for trees in ((wrong, caches), (right, caches[:1] * entries)):
        with pytest.raises(ValueError, match="zip"):
            chain.backward(XP, *trees, x)


@pytest.mark.parametrize(
    "chain",
    [
        Chain(Dense(7, 4), ReLU(), Dense(4, 3)),
        Chain(Rescale(shift=0.0, scale=0.5), Dropout(0.2), Dense(7, 4), BatchNorm(4), ReLU()),
        Chain(Chain(Tanh(), Dense(7, 4)), LayerNorm(4)),
        Chain(ReLU(), Tanh()),
    ],
)
def test_gradient_is_what_backward_gives_without_dx(chain):
    rng = np.random.default_rng(0)
    params, state = chain.init(rng), tree_map(np.asarray, chain.init_state(rng))
    y, caches, _ = chain.forward(XP, params, state, rng.standard_normal((ROWS, 7)), True)
    dy = rng.standard_normal(y.shape)
    _, grads = chain.backward(XP, params, caches, dy)
    ours = chain.gradient(XP, params, caches, dy)
    assert tree_map(np.shape, ours) == tree_map(np.shape, grads)
    close(ours, grads, rtol=0.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Chain(Dense(7, 4), Dense(5, 3)), "takes 5 features but 4 arrive"),
        (lambda: Chain(Dense(7, 4), LayerNorm(5)), "takes 5 features but 4 arrive"),
        (lambda: Chain(Dense(7, 4), BatchNorm(5)), "takes 5 features but 4 arrive"),
        (lambda: Chain(), "at least one layer"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("layer", [*LAYERS, Dense(7, 5, bias=False), Embedding(9, 4)], ids=named)
def test_specs_are_the_shapes_and_dtypes_of_what_a_layer_draws(layer):
    chain, rng = Chain(layer), np.random.default_rng(0)
    for specs, drawn in ((chain.specs(), chain.init(rng)), (chain.state_specs(), chain.init_state(rng))):
        assert tree_map(np.shape, drawn) == tree_map(lambda spec: (spec.rows, spec.columns), specs)
        assert [a.dtype.name.removesuffix("64") for a in leaves(drawn)] == [spec.dtype for spec in leaves(specs)]


def test_layers_are_values():
    assert Dense(7, 5) == Dense(7, 5)
    assert len({Chain(Dense(7, 5), ReLU()), Chain(Dense(7, 5), ReLU())}) == 1


# Models in front


@pytest.mark.parametrize("layer", LAYERS, ids=named)
def test_three_models_at_once_are_three_models(layer):
    chain, params, state, x, dy = drawn(layer, models=(3,))
    keys = np.arange(3, dtype=np.int32).reshape(3, 1, 1)
    state = tree_map(lambda a: a if a.dtype.kind == "f" else keys, state)
    together = both_ways(XP, chain, params, state, x, dy)
    for i in range(3):
        alone = both_ways(XP, chain, *tree_map(lambda a, i=i: a[i], (params, state, x, dy)))
        close(tree_map(lambda a, i=i: a[i], together), alone)


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("own", [False, True])
def test_embeddings_of_three_models_read_the_same_ids_or_their_own(combine, own):
    rng = np.random.default_rng(0)
    layer = Embedding(5, 4, ids_per_row=3, combine=combine)
    params = tree_map(lambda *a: np.stack(a), *(layer.init(rng) for _ in range(3)))
    ids = rng.integers(0, 5, (3, ROWS, 3) if own else (ROWS, 3), dtype=np.uint8)
    y, _ = layer.forward(XP, params, ids)
    dy = rng.standard_normal(y.shape)
    grads = layer.gradient(XP, params, ids, dy)
    for i in range(3):
        alone, its = tree_map(lambda a, i=i: a[i], params), ids[i] if own else ids
        close(y[i], layer.forward(XP, alone, its)[0])
        close(grads.E[i], layer.gradient(XP, alone, its, dy[i]).E)


# Dropout


def hash32_in_python(x: int) -> int:
    """lowbias32 on an unsigned 32-bit integer."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_hash32_is_the_same_in_plain_integers_on_every_backend(backend):
    rng = np.random.default_rng(0)
    edges = [0, 1, -1, 2**31 - 1, -(2**31)]
    x = np.array([*edges, *rng.integers(-(2**31), 2**31, 200)], dtype=np.int32)
    _, out = backend.compile(lambda xp, carry, consts, item: (carry, hash32(item)))((), (), backend.asarray(x[None]))
    theirs = np.array([hash32_in_python(int(a) % 2**32) for a in x], dtype=np.uint32)
    np.testing.assert_array_equal(backend.to_numpy(out)[0], theirs.view(np.int32))


def test_hash32_flips_half_of_the_bits_for_every_bit_of_its_input():
    x = np.random.default_rng(0).integers(-(2**31), 2**31, 4000).astype(np.int32)
    for bit in range(32):
        flipped = hash32(x) ^ hash32(x ^ np.int64(1 << bit).astype(np.int32))
        share = np.bitwise_count(flipped.view(np.uint32)).mean() / 32
        assert abs(share - 0.5) < 0.01


def masks(rate=0.3, key=5, steps=40, shape=(100, 90)):
    keep = Dropout(rate).keep
    numbers = [tree_map(lambda n: np.full((1, 1), n, np.int32), Counter(key, step)) for step in range(steps)]
    return np.stack([keep(np, counter, shape) for counter in numbers])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share(rate):
    dropped = ~masks(rate)
    deviation = math.sqrt(rate * (1 - rate))
    assert abs(dropped.mean() - rate) < 5 * deviation / math.sqrt(dropped.size)
    for axes in product(range(3), repeat=2):  # each step, row and column has its share
        part = dropped.mean(axis=tuple(set(axes)))
        assert np.abs(part - rate).max() < 5.5 * deviation / math.sqrt(dropped.size / max(part.size, 1))


def test_dropout_drops_the_numbers_below_a_share_of_all():
    """Of the 2^32 numbers, ``rate 2^32`` are smaller than -2^31 + rate 2^32: the next one is kept."""
    key, step, row, column = 5, 3, 4, 2
    bits = hash32_in_python(hash32_in_python(row ^ hash32_in_python(key ^ hash32_in_python(step))) ^ column)
    signed = bits - 2**32 if bits >= 2**31 else bits
    state = Counter(*(np.full((1, 1), n, np.int32) for n in (key, step)))
    for below, kept in ((signed + 2**31, True), (signed + 2**31 + 1, False)):
        assert Dropout(below / 2**32).keep(np, state, (row + 1, column + 1))[row, column] == kept


def test_masks_of_steps_rows_columns_and_keys_have_nothing_to_do_with_each_other():
    m = masks() - 0.7
    other = masks(key=6) - 0.7
    limit = 5 * 0.21 / math.sqrt(m.size)
    shifted = [(m[1:], m[:-1]), (m[:, 1:], m[:, :-1]), (m[:, :, 1:], m[:, :, :-1]), (m, other)]
    for a, b in shifted:
        assert abs((a * b).mean()) < 1.1 * limit


def test_dropout_keeps_the_mean_and_counts_its_steps():
    layer = Dropout(0.5)
    state = Counter(np.full((1, 1), 3, np.int32), np.zeros((1, 1), np.int32))
    x = np.ones((400, 300), np.float32)
    y, m, after = layer.forward(XP, (), state, x, True)
    assert set(np.unique(y)) == {0.0, 2.0}
    assert abs(y.mean() - 1.0) < 5 / math.sqrt(y.size)
    assert after.step == 1
    again = layer.forward(XP, (), after, x, True)[0]
    assert not np.array_equal(y, again)
    np.testing.assert_array_equal(layer.backward(XP, (), m, x)[0], m)


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_dropout_does_nothing_in_prediction_and_at_rate_0(rate, train):
    chain, params, state, x, dy = drawn(Dropout(rate))
    y, caches, after = chain.forward(XP, params, state, x, train)
    assert y is x
    assert after == state
    if train:
        assert chain.backward(XP, params, caches, dy)[0] is dy


def test_layers_of_a_network_do_not_drop_alike():
    chain = Chain(Dropout(0.5), Dropout(0.5))
    first, second = chain.init_state(np.random.default_rng(0))
    assert first.key != second.key


# Dense without a bias, new heads, tables


def test_dense_without_bias_is_a_product():
    torch = pytest.importorskip("torch")
    chain, params, state, x, dy = drawn(Dense(7, 5, bias=False))
    assert len(leaves(params)) == 1
    assert leaves(chain.specs()) == [Spec(7, 5)]
    t, W = (torch.tensor(a, requires_grad=True) for a in (x, params[0].W))
    y = t @ W
    y.backward(torch.tensor(dy))
    ours, _, dx, grads = both_ways(XP, chain, params, state, x, dy)
    close((ours, dx, grads), tuple(a.detach() for a in (y, t.grad, W.grad)))


def test_dense_without_bias_draws_the_weights_of_one_with_bias():
    with_bias, without = (Dense(7, 5, bias=bias).init(np.random.default_rng(0)) for bias in (True, False))
    np.testing.assert_array_equal(with_bias.W, without.W)


@pytest.mark.parametrize("layer", LAYERS, ids=named)
def test_input_gradient_is_the_dx_of_backward(layer):
    chain, params, state, x, dy = drawn(layer)
    _, caches, _ = chain.forward(XP, params, state, x, True)
    dx, _ = layer.backward(XP, params[0], caches[0], dy)
    np.testing.assert_array_equal(layer.input_gradient(XP, params[0], caches[0], dy), dx)


def test_the_parts_of_backward_follow_from_backward():
    """A custom layer needs to define only ``backward``."""

    class Own(Layer):
        def backward(self, xp, params, cache, dy):
            return dy * params, dy * cache

    class Stateful(StatefulLayer):
        backward = Own.backward

    for layer in (Own(), Stateful()):
        assert layer.gradient(XP, 2.0, 3.0, 5.0) == 15.0
        assert layer.input_gradient(XP, 2.0, 3.0, 5.0) == 10.0


def test_a_new_head_replaces_the_last_layer():
    chain = Chain(Dense(7, 4), Tanh(), Dense(4, 3))
    assert chain.with_head(Dense(4, 2)) == Chain(Dense(7, 4), Tanh(), Dense(4, 2))
    assert chain.with_head(Dropout(0.5), Dense(4, 2)).width(7) == 2
    with pytest.raises(ValueError, match="takes 5 features but 4 arrive"):
        chain.with_head(Dense(5, 2))


def test_print_shows_a_table_of_all_layers():
    chain = Chain(Embedding(10, 4, ids_per_row=3), Chain(Dense(12, 5), ReLU()), BatchNorm(5), Dense(5, 2, bias=False))
    assert str(chain).splitlines() == [
        "position  layer      output      parameters",
        "0         Embedding  (rows, 12)          40",
        "1.0       Dense      (rows, 5)           65",
        "1.1       ReLU       (rows, 5)            0",
        "2         BatchNorm  (rows, 5)           10",
        "3         Dense      (rows, 2)           10",
        "total                                   125",
    ]
    assert repr(Chain(ReLU())) == "Chain(layers=(ReLU(),))"
    assert "(rows, any)" in str(Chain(ReLU()))


def test_networks_without_dropout_have_no_such_layer():
    kinds = [[type(layer) for layer in mlp(4, 5, 3, dropout=rate).layers] for rate in (0.0, 0.5)]
    assert kinds == [[Dense, ReLU, Dense], [Dense, ReLU, Dropout, Dense]]
