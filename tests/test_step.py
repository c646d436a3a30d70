"""The training step: against torch, for stacks of models, with clipping and penalties, and the arrays it writes."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest

from mlp_xp.data.feed import Batch, gather
from mlp_xp.nn.layers import BatchNorm, Chain, Dense, Dropout, Embedding, ReLU, Rescale
from mlp_xp.nn.losses import Poisson, SoftmaxCrossEntropy
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Rates, RMSprop
from mlp_xp.nn.parts import Part
from mlp_xp.nn.schedules import LossRatio
from mlp_xp.nn.step import TrainState, TrainStep, clip_by_global_norm, is_weight, shrink
from mlp_xp.parity import cases
from mlp_xp.parity.cases import rates_of
from mlp_xp_backends import get_backend
from mlp_xp_backends.numpy_namespace import xp as XP
from mlp_xp_backends.trees import ABSENT, leaves, named_leaves, tree_map

N_IN, N_OUT, ROWS, BATCH = 8, 5, 48, 12
SOFTMAX = SoftmaxCrossEntropy()
network = partial(mlp, N_IN, 7, N_OUT)


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, N_IN))
    y = np.argmax(x[:, :N_OUT] + 0.5 * rng.standard_normal((ROWS, N_OUT)), axis=1).astype(np.int32)
    return Batch(x, y, rng.uniform(0.5, 1.5, ROWS))


def begun(step, seed=0):
    """The state before the first step, in float64."""
    rng = np.random.default_rng(seed)
    return step.init(XP, *tree_map(np.asarray, (step.network.init(rng), step.network.init_state(rng))))


@cache
def compiled(step, backend):
    """The loop over the step; kept, for some backends take long to compile it."""

    def body(xp, state, data, item):
        return step(xp, state, *gather(xp, data, item[0]), item[1])

    return backend.compile(body)


def trained(step, state, batch, steps=20, backend=None, dtype="float64", seed=1):
    """The state after steps on random rows, and the loss before each."""
    backend = backend or get_backend("numpy")

    def cast(a):
        return backend.asarray(np.array(a, dtype if a.dtype.kind == "f" else a.dtype))

    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(ROWS)[:BATCH] for _ in range(steps)]).astype(np.int32)
    items = (rows, rates_of(step.optimizer, steps))
    state, losses = compiled(step, backend)(*(tree_map(cast, tree) for tree in (state, batch, items)))
    return tree_map(backend.to_numpy, state), backend.to_numpy(losses)


def close(ours, theirs, rtol=1e-11):
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=rtol)


# Against torch


@pytest.mark.parametrize(
    ("optimizer", "make", "l2"),
    [
        (SGD(0.1, momentum=0.9, nesterov=True), lambda o, p: o.SGD(p, 0.1, momentum=0.9, nesterov=True), 0.0),
        (Adam(0.01), lambda o, p: o.Adam(p, 0.01), 0.02),
        (AdamW(0.01), lambda o, p: o.AdamW(p, 0.01), 0.0),
    ],
    ids=["Nesterov", "Adam", "AdamW"],
)
@pytest.mark.parametrize("clip", [None, 0.3])
def test_training_goes_the_way_of_torch(optimizer, make, l2, clip):
    torch = pytest.importorskip("torch")
    step = TrainStep(network(activation="tanh"), SOFTMAX, optimizer, l2=l2, clip_norm=clip)
    state, batch, steps = begun(step), data()._replace(w=ABSENT), 25
    net = torch.nn.Sequential(torch.nn.Linear(N_IN, 7), torch.nn.Tanh(), torch.nn.Linear(7, N_OUT)).double()
    with torch.no_grad():
        for layer, p in ((net[0], state.params[0]), (net[2], state.params[2])):
            layer.weight.copy_(torch.tensor(p.W.T))
            layer.bias.copy_(torch.tensor(p.b[0]))
    theirs, losses = make(torch.optim, net.parameters()), []
    rng = np.random.default_rng(1)
    for _ in range(steps):
        rows = rng.permutation(ROWS)[:BATCH]
        loss = torch.nn.functional.cross_entropy(net(torch.tensor(batch.x[rows])), torch.tensor(batch.y[rows]).long())
        loss = loss + 0.5 * l2 * sum((layer.weight**2).sum() for layer in (net[0], net[2]))
        losses.append(loss.item())
        theirs.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        theirs.step()
    after, ours = trained(step, state, batch, steps)
    rtol = 1e-9 if clip is None else 1e-4  # torch divides by the norm plus 1e-6
    np.testing.assert_allclose(ours, losses, rtol=rtol)
    for layer, p in ((net[0], after.params[0]), (net[2], after.params[2])):
        np.testing.assert_allclose(p.W, layer.weight.detach().numpy().T, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(p.b[0], layer.bias.detach().numpy(), rtol=rtol, atol=rtol)


# Models in front

WHOLE = {
    "dropout, batch norm, Adam, l2, clip, max-norm": TrainStep(
        network(dropout=0.3, norm="batch"), SOFTMAX, Adam(0.01, eps=1e-3), l2=0.01, clip_norm=0.5, max_norm=0.9
    ),  # a small epsilon would blow up the rounding of biases before a batch norm, whose gradients are 0
    "layer norm, LossRatio, momentum": TrainStep(
        network(norm="layer"), SOFTMAX, SGD(LossRatio(0.1, window=3), momentum=0.9)
    ),
    "LossRatio, AdamW, dropout": TrainStep(network(dropout=0.5), SOFTMAX, AdamW(LossRatio(0.01, window=2)), l2=0.1),
    "rescale, gelu, RMSprop": TrainStep(
        network(first=Rescale(shift=0.1, scale=2.0), activation="gelu"), SOFTMAX, RMSprop(0.01, eps=1e-3), clip_norm=0.2
    ),
}


@pytest.mark.parametrize("step", WHOLE.values(), ids=WHOLE)
def test_three_models_at_once_are_three_runs(backend, step):
    alone = [begun(step, seed) for seed in range(3)]
    params, layers = tree_map(lambda *a: np.stack(a), *((s.params, s.layers) for s in alone))
    together, losses = trained(step, step.init(XP, params, layers), data(), backend=backend)
    for i, state in enumerate(alone):
        after, loss = trained(step, state, data())
        close(tree_map(lambda a, i=i: a[i], together), after)
        close(losses[:, i], loss)


def test_three_models_of_words_at_once_are_three_runs():
    step = TrainStep(Chain(Embedding(9, 3, ids_per_row=2), Dense(6, N_OUT)), SOFTMAX, SGD(0.5, momentum=0.9))
    batch = data()._replace(x=np.random.default_rng(3).integers(0, 9, (ROWS, 2), dtype=np.int32))
    alone = [begun(step, seed) for seed in range(3)]
    together, _ = trained(
        step, step.init(XP, tree_map(lambda *a: np.stack(a), *(s.params for s in alone)), (ABSENT, ABSENT)), batch
    )
    for i, state in enumerate(alone):
        close(tree_map(lambda a, i=i: a[i], together), trained(step, state, batch)[0])


# The same everywhere and every time


@pytest.mark.parametrize("step", WHOLE.values(), ids=WHOLE)
def test_backend_trains_as_numpy_does(backend, step):
    ours, losses = trained(step, begun(step), data(), backend=backend)
    theirs, reference = trained(step, begun(step), data())
    close((ours, losses), (theirs, reference))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_seed_twice_gives_the_same_bits(backend, dtype):
    step = WHOLE["dropout, batch norm, Adam, l2, clip, max-norm"]
    first, second = (trained(step, begun(step), data(), backend=backend, dtype=dtype) for _ in range(2))
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("step", WHOLE.values(), ids=WHOLE)
def test_state_keeps_its_dtypes_and_shapes(backend, step):
    before = begun(step)
    after, losses = trained(step, before, data(), backend=backend, dtype="float32")
    assert losses.dtype == np.float32
    assert tree_map(np.shape, after) == tree_map(np.shape, before)
    assert {a.dtype.name for a in leaves(after)} <= {"float32", "int32"}


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict", "torch"], indirect=True)  # JAX's cannot be written to
def test_pure_operations_leave_their_inputs_as_they_were(backend):
    for case in cases():
        if case.carry is not ABSENT:
            continue
        consts, items = tree_map(lambda a: backend.asarray(np.array(a)), (case.consts, case.items))
        backend.compile(case.body)((), consts, items)
        for a, b in zip(leaves(consts), leaves(case.consts), strict=True):
            np.testing.assert_array_equal(backend.to_numpy(a), b)


@pytest.mark.parametrize("step", WHOLE.values(), ids=WHOLE)
def test_step_leaves_all_but_its_state_as_it_was(step):
    batch = data()
    frozen = tree_map(np.array, (batch, begun(step).layers, rates_of(step.optimizer, 1)))
    for a in leaves(frozen):
        a.flags.writeable = False
    (x, y, w), layers, rates = frozen
    state = begun(step)._replace(layers=layers)
    state = state._replace(params=tree_map(np.array, state.params))
    after, _ = step(XP, state, x, y, w, tree_map(lambda r: r[0], rates))
    assert all(a is b for a, b in zip(leaves(after.params), leaves(state.params), strict=True))  # consumed


# What a step does


def one(step):
    """State before, after, and the loss of one step on all rows."""
    before, state = begun(step), begun(step)
    rates = tree_map(lambda r: r[0], rates_of(step.optimizer, 1))
    batch = data()
    after, loss = step(XP, state, batch.x, batch.y, batch.w, rates)
    return before, after, loss


def moved(step):
    before, after, _ = one(step)
    return tree_map(lambda a, b: a - b, after.params, before.params)


def test_the_loss_is_that_before_the_step():
    step = TrainStep(network(), SOFTMAX, SGD(0.1))
    before, _, loss = one(step)
    batch = data()
    z, _, _ = step.network.forward(XP, before.params, before.layers, batch.x, True)
    assert loss == SOFTMAX.forward(XP, z, batch.y, batch.w)[0]


def test_l2_pulls_at_weights_and_not_at_biases():
    plain, pulled = (TrainStep(network(), SOFTMAX, SGD(1.0), l2=l2) for l2 in (0.0, 0.3))
    before, _, loss = one(plain)
    difference = named_leaves(tree_map(lambda a, b: a - b, moved(pulled), moved(plain)))
    for name, p in named_leaves(before.params).items():
        np.testing.assert_allclose(difference[name], -0.3 * p if name.endswith("W") else 0.0 * p, atol=1e-15)
    squares = sum(np.sum(p**2) for name, p in named_leaves(before.params).items() if name.endswith("W"))
    assert one(pulled)[2] == pytest.approx(loss + 0.15 * squares, rel=1e-14)


def norm(tree):
    return np.sqrt(sum(np.sum(a * a) for a in leaves(tree)))


def test_clipping_bounds_the_whole_gradient_and_keeps_its_direction():
    free, clipped, loose = (
        moved(TrainStep(network(), SOFTMAX, SGD(1.0), clip_norm=limit)) for limit in (None, 0.01, 1e6)
    )
    assert norm(clipped) == pytest.approx(0.01, rel=1e-12)
    close(tree_map(lambda a: a * (norm(free) / 0.01), clipped), free)
    close(loose, free, rtol=1e-15)


def test_clipping_nothing_divides_by_nothing():
    zeros = (np.zeros((2, 3)), np.zeros((1, 3)))
    close(clip_by_global_norm(XP, zeros, 1.0), zeros, rtol=0.0)


def test_each_model_is_clipped_by_itself():
    g = np.random.default_rng(0).standard_normal((3, 4, 2)) * np.array([1e-3, 1.0, 1e3])[:, None, None]
    clipped = clip_by_global_norm(XP, (g,), 1.0)[0]
    np.testing.assert_allclose(np.linalg.norm(clipped, axis=(1, 2)), np.minimum(np.linalg.norm(g, axis=(1, 2)), 1.0))


def test_max_norm_bounds_the_weights_into_each_unit():
    step = TrainStep(network(), SOFTMAX, SGD(5.0), max_norm=0.4)
    _, after, _ = one(step)
    for name, p in named_leaves(after.params).items():
        if name.endswith("W"):
            lengths = np.linalg.norm(p, axis=0)
            assert lengths.max() <= 0.4 * (1 + 1e-12)
            assert lengths.max() == pytest.approx(0.4)
        else:
            assert np.abs(p).max() > 0.0


def test_loss_ratio_scales_the_rate_by_the_losses_of_the_run_itself():
    lr, window, steps = 0.5, 3, 20
    ruled, losses = trained(
        step := TrainStep(network(), SOFTMAX, SGD(LossRatio(lr, window=window))), begun(step), data(), steps
    )
    factors = [1.0]  # of the step that follows
    for t in range(1, steps):
        recent, before = losses[max(t - window, 0) : t], losses[max(t - 2 * window, 0) : max(t - window, 0)]
        turn = t % window == 0 and len(before) == window
        factors.append(factors[-1] * (recent.mean() / before.mean() if turn else 1.0))
    plain = TrainStep(network(), SOFTMAX, SGD(lr))
    state, batch, rng = begun(plain), data(), np.random.default_rng(1)
    for factor in factors:
        rows = rng.permutation(ROWS)[:BATCH]
        state, _ = plain(XP, state, *(leaf[rows] for leaf in batch), Rates((np.float64(lr * factor),)))
    assert len(set(factors)) > 3
    close(ruled.params, state.params)


def test_shrink_is_1_up_to_the_limit():
    np.testing.assert_allclose(shrink(XP, np.array([0.0, 1.0, 4.0, 16.0]), 2.0), [1.0, 1.0, 1.0, 0.5], rtol=1e-15)


def test_weights_are_told_by_name():
    assert [n for n in ("0.W", "0.b", "1.gamma", "0.E", "W", "3.1.W") if is_weight(n)] == ["0.W", "W", "3.1.W"]


def test_no_step_without_weight():
    step = TrainStep(network(norm="layer"), SOFTMAX, SGD(0.1, momentum=0.9))
    state, batch = begun(step), data()
    after, loss = step(
        XP, state, batch.x, batch.y, np.zeros(ROWS), tree_map(lambda r: r[0], rates_of(step.optimizer, 1))
    )
    assert loss == 0.0
    close(after.params, begun(step).params, rtol=0.0)


def test_training_lowers_the_loss():
    for step in (*WHOLE.values(), TrainStep(network(), Poisson(), Adam(0.01))):
        batch = data()
        if isinstance(step.loss, Poisson):
            batch = batch._replace(y=np.eye(N_OUT)[batch.y])
        _, losses = trained(step, begun(step), batch, steps=120)
        assert losses[-20:].mean() < 0.9 * losses[:20].mean()


def test_a_step_is_a_value():
    make = partial(TrainStep, network(), SOFTMAX, Adam())
    assert make() == make()
    assert hash(make()) == hash(make())
    assert isinstance(begun(make()), TrainState)


def test_a_penalty_given_with_the_step_replaces_the_configured_one():
    batch = data()
    for configured, given in ((0.0, 0.3), (0.3, 0.0), (0.7, 0.3)):
        step, other = (TrainStep(network(), SOFTMAX, SGD(0.1), l2=l2) for l2 in (configured, given))
        rates = tree_map(lambda r: r[0], rates_of(step.optimizer, 1))
        ours, loss = step(XP, begun(step), batch.x, batch.y, batch.w, rates, np.asarray(given))
        theirs, expected = other(XP, begun(other), batch.x, batch.y, batch.w, rates)
        assert loss == pytest.approx(float(expected), rel=1e-14)
        close(ours, theirs, rtol=1e-14)


def test_each_model_has_a_penalty_of_its_own():
    step, batch = TrainStep(network(), SOFTMAX, SGD(0.1)), data()
    rates = tree_map(lambda r: r[0], rates_of(step.optimizer, 1))
    l2 = np.array([0.0, 0.1, 1.0])
    stacked = step.init(XP, tree_map(lambda *a: np.stack(a), *[begun(step, i).params for i in range(3)]), (ABSENT,) * 3)
    together, losses = step(XP, stacked, batch.x, batch.y, batch.w, rates, l2.reshape(3, 1, 1))
    for i in range(3):
        alone, loss = step(XP, begun(step, i), batch.x, batch.y, batch.w, rates, l2[i])
        assert losses[i] == pytest.approx(float(loss), rel=1e-14)
        close(tree_map(lambda a, i=i: a[i], together.params), alone.params, rtol=1e-13)


# Frozen layers

FROZEN = {
    "first": ((0, 1), {"2.W", "2.b"}),
    "last": ((2,), {"0.W", "0.b"}),
    "given backwards, twice, as NumPy's": ([np.int64(1), 0, 0], {"2.W", "2.b"}),
}


@pytest.mark.parametrize(("frozen", "moving"), FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.01), AdamW(0.01)], ids=["SGD", "Adam", "AdamW"])
def test_frozen_parameters_stay_and_the_others_move_as_before(backend, frozen, moving, optimizer):
    options = {"l2": 0.1, "max_norm": 5.0}
    free, step = (TrainStep(network(), SOFTMAX, optimizer, frozen=f, **options) for f in ((), frozen))
    assert step.frozen in ((0, 1), (2,))
    state = begun(step)
    assert len(state.slots) == len(moving)
    before, expected = named_leaves(begun(step).params), named_leaves(trained(free, begun(free), data(), 1)[0].params)
    after, _ = trained(step, state, data(), 1, backend=backend)
    for name, w in named_leaves(after.params).items():
        close(w, expected[name] if name in moving else before[name], rtol=1e-11 if name in moving else 0.0)


def test_no_gradient_of_frozen_layers_is_computed():
    class Costly(Dense):
        def gradient(self, xp, params, x, dy):
            raise AssertionError

    chain = Chain(Costly(N_IN, 7), Dense(7, 7), Costly(7, 7), Dense(7, N_OUT))
    step = TrainStep(chain, SOFTMAX, SGD(0.1), frozen=(0, 2), l2=0.1, clip_norm=1.0)
    before, after, _ = one(step)
    pairs = zip(named_leaves(before.params).items(), leaves(after.params), strict=True)
    changed = {name for (name, old), new in pairs if not np.array_equal(old, new)}
    assert changed == {"1.W", "1.b", "3.W", "3.b"}


def test_frozen_layers_compute_as_in_prediction_and_keep_their_state():
    chain = Chain(Dense(N_IN, 7), BatchNorm(7), Dropout(0.5), Dense(7, N_OUT))
    step = TrainStep(chain, SOFTMAX, SGD(0.1), frozen=(0, 1, 2))
    before, after, loss = one(step)
    close(after.layers, before.layers, rtol=0.0)
    batch = data()
    z, _, _ = chain.forward(XP, before.params, before.layers, batch.x, False)
    assert loss == SOFTMAX.forward(XP, z, batch.y, batch.w)[0]


@pytest.mark.parametrize(
    ("frozen", "words"),
    [
        ((0, 3), "no parameters to train"),
        ((4,), "frozen names layer 4, but the network has 4 layers"),
        ((-1,), "each position in frozen must be an integer of at least 0"),
        ((True,), "each position in frozen must be an integer"),
        ("0", "each position in frozen must be"),
        (0, "frozen must be positions of layers"),
        ((1,), "frozen names layer 1, BatchNorm, which has a state, but the trainable layer 0 is in front"),
    ],
)
def test_what_cannot_be_frozen(frozen, words):
    chain = Chain(Dense(N_IN, 7), BatchNorm(7), ReLU(), Dense(7, N_OUT)) if frozen == (1,) else None
    chain = chain or Chain(Dense(N_IN, 7), ReLU(), Dropout(0.5), Dense(7, N_OUT))
    with pytest.raises((ValueError, TypeError), match=words):
        TrainStep(chain, SOFTMAX, SGD(0.1), frozen=frozen)


def test_a_network_without_parameters_cannot_be_trained():
    with pytest.raises(ValueError, match="there are no parameters to train"):
        TrainStep(Chain(ReLU(), Dropout(0.5)), SOFTMAX, SGD(0.1))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_a_layer_that_returns_too_few_gradients_is_found(l2):
    class Forgetful(Dense):
        def gradient(self, xp, params, x, dy):
            return super().gradient(xp, params, x, dy)._replace(b=())

    with pytest.raises(ValueError, match="zip"):
        one(TrainStep(Chain(Forgetful(N_IN, N_OUT)), SOFTMAX, SGD(0.1), l2=l2))


class OneRank:
    """A namespace of the only rank of a group."""

    all_sum = staticmethod(lambda x: x)

    def __getattr__(self, name):
        return getattr(XP, name)


@pytest.mark.parametrize("weights", [np.zeros(ROWS), np.arange(ROWS) * 1.0])
def test_a_batch_on_ranks_is_the_batch_of_one_process_even_without_weight(weights):
    step, batch = TrainStep(mlp(N_IN, 5, N_OUT, norm="batch"), SOFTMAX, SGD(0.1)), data()
    part, results = Part(np.int32(0), np.float64(ROWS)), []
    for xp, place in ((XP, ABSENT), (OneRank(), part)):
        params = step.network.init(np.random.default_rng(0))
        state = step.init(xp, params, step.network.init_state(None))
        after, loss = step(xp, state, batch.x, batch.y, weights, step.optimizer.rates(0.1, 1), part=place)
        results.append((loss, after.params))
    close(results[1], results[0])
    assert (results[0][0] == 0.0) == (weights.sum() == 0.0)
