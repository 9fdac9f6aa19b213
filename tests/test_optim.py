import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxad import optim


class NumpyAdamP:
    """The published rule for one array, in float64, output channel last.

    Transcribed from algorithm 2 of arXiv:2006.08217 and the authors' constants; the
    weights are changed in place, decay first.
    """

    def __init__(self, weight, lr, weight_decay, delta=0.1, wd_ratio=0.1):
        self.w = np.array(weight, np.float64)
        self.m, self.v, self.t = np.zeros_like(self.w), np.zeros_like(self.w), 0
        self.lr, self.wd, self.delta, self.ratio = lr, weight_decay, delta, wd_ratio
        self.projections = []

    def step(self, g):
        g = np.asarray(g, np.float64)
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        p = self.m / (np.sqrt(self.v) / np.sqrt(1 - 0.999**self.t) + 1e-8)
        p, ratio = self.projection(g, p) if self.w.ndim > 1 else (p, 1.0)
        self.w *= 1 - self.lr * self.wd * ratio
        self.w -= self.lr / (1 - 0.9**self.t) * p
        return self.w

    def projection(self, g, p):
        channels = np.moveaxis(self.w, -1, 0).reshape(self.w.shape[-1], -1)
        for name, rows in (("channels", channels), ("whole", self.w.reshape(1, -1))):

            def view(x, like=name):
                if like == "whole":
                    return x.reshape(1, -1)
                return np.moveaxis(x, -1, 0).reshape(x.shape[-1], -1)

            cosines = []
            for grad, weight in zip(view(g), rows, strict=True):
                norms = (np.linalg.norm(grad) + 1e-8) * (np.linalg.norm(weight) + 1e-8)
                cosines.append(abs(grad @ weight) / norms)
            if max(cosines) < self.delta / np.sqrt(rows.shape[1]):
                self.projections.append(name)
                out = []
                for step, weight in zip(view(p), rows, strict=True):
                    unit = weight / (np.linalg.norm(weight) + 1e-8)
                    out.append(step - unit * (unit @ step))
                out = np.array(out)
                if name == "whole":
                    return out.reshape(p.shape), self.ratio
                moved = np.moveaxis(p, -1, 0).shape
                return np.moveaxis(out.reshape(moved), 0, -1), self.ratio
        self.projections.append(None)
        return p, 1.0


def gradients(weight, kind, rng):
    """A gradient that is radial to nothing, to every channel, or only to the whole."""
    g = rng.normal(size=weight.shape)
    if kind == "channels":
        norm2 = (weight**2).sum(tuple(range(weight.ndim - 1)), keepdims=True)
        inner = (weight * g).sum(tuple(range(weight.ndim - 1)), keepdims=True)
        return g - weight * inner / norm2
    if kind == "whole":
        g += 3 * weight * np.sign(rng.normal(size=weight.shape[-1]))
        return g - weight * (weight * g).sum() / (weight**2).sum()
    return g + 2 * weight


@pytest.mark.parametrize("shape", [(7, 4), (3, 3, 2, 5), (6,)])
@pytest.mark.parametrize("kind", ["neither", "channels", "whole"])
def test_adamp_against_the_published_rule(kind, shape):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    lr = 0.01
    oracle = NumpyAdamP(weight, lr, weight_decay=0.3)
    with jax.enable_x64(True):
        tx = optim.scale_by_adamp(weight_decay=0.3)
        w = jnp.asarray(weight)
        state = tx.init(w)

        @jax.jit
        def step(w, state, g):
            direction, state = tx.update(g, state, w)
            return w - lr * direction, state

        for _ in range(6):
            g = gradients(oracle.w, kind, rng) if len(shape) > 1 else rng.normal(size=6)
            want = oracle.step(g)
            w, state = step(w, state, jnp.asarray(g))
            assert w.dtype == jnp.float64
            np.testing.assert_allclose(w, want, rtol=1e-12, atol=1e-14)
    if len(shape) > 1:
        assert oracle.projections == [None if kind == "neither" else kind] * 6


def test_adamp_without_projection_is_adamw():
    """delta = 0 never projects."""
    rng = np.random.default_rng(1)
    params = {"a": jnp.float32(rng.normal(size=(5, 3))), "b": jnp.ones(3)}
    ours = optim.scale_by_adamp(weight_decay=0.1, delta=0.0)
    theirs = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    state, other = ours.init(params), theirs.init(params)

    @jax.jit
    def update(grads, state, other):
        return ours.update(grads, state, params), theirs.update(grads, other, params)

    for _ in range(3):
        grads = {k: np.float32(rng.normal(size=w.shape)) for k, w in params.items()}
        (got, state), (want, other) = update(grads, state, other)
        jax.tree.map(
            lambda g, w: np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6),
            got,
            want,
        )


def test_adamp_by_hand():
    """w = (1, -1) and g = (1, 1): orthogonal, so the decay is a tenth of w.

    Adam's first step is the gradient's signs, and has no component along w to lose.
    """
    tx = optim.scale_by_adamp(eps=0.0, weight_decay=1.0)
    w, g = jnp.array([[1.0], [-1.0]]), jnp.array([[1.0], [1.0]])
    direction, _ = jax.jit(tx.update)(g, tx.init(w), w)
    np.testing.assert_allclose(direction, [[1.1], [0.9]], rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        # The gradient with the decay is 1 + 0.5 * 2; Adam's first steps are signs.
        ("adam", [1.0, 1.0]),
        ("adamw", [2.0, 2.0]),
        ("sgd", [2.0, 2.0 + 0.5 * 2.0]),
    ],
)
def test_rules_by_hand(rule, want):
    tx = optim.scale_by(rule, betas=(0.5, 0.75), weight_decay=0.5)
    w, state, found = jnp.array(2.0), tx.init(jnp.array(2.0)), []
    update = jax.jit(tx.update)
    for _ in range(2):
        direction, state = update(jnp.array(1.0), state, w)
        found.append(float(direction))
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_betas_by_hand():
    """Gradients 1 and 3: m = 1.75 and v = 2.4375, over 1 - 0.5^2 and 1 - 0.75^2."""
    tx = optim.scale_by("adam", betas=(0.5, 0.75), weight_decay=0.0)
    w = jnp.array(2.0)
    update = jax.jit(tx.update)
    _, state = update(jnp.array(1.0), tx.init(w), w)
    direction, _ = update(jnp.array(3.0), state, w)
    want = (1.75 / 0.75) / (2.4375 / 0.4375) ** 0.5
    np.testing.assert_allclose(direction, want, rtol=1e-6)


def test_cosine():
    got = optim.cosine(jnp.array([0.0, 1 / 3, 0.5, 1.0]))
    np.testing.assert_allclose(got, [1.0, 0.75, 0.5, 0.0], atol=1e-7)


def test_lars_by_hand():
    """Kernel (3, 4) of length 5, gradient (0, 2); decay 1/2 makes that (1.5, 4).

    Its step is 0.001 x 5 / sqrt(1.5^2 + 4^2) times as long; the bias, neither decayed
    nor rescaled, takes its gradient. Then momentum 1/2.
    """
    tx = optim.scale_by("lars", betas=(0.5, 0.9), weight_decay=0.5)
    params = {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.array([7.0])}
    grads = {"kernel": jnp.array([[0.0], [2.0]]), "bias": jnp.array([2.0])}
    update = jax.jit(tx.update)
    first, state = update(grads, tx.init(params), params)
    ratio = 0.005 / (1.5**2 + 4**2) ** 0.5
    np.testing.assert_allclose(first["kernel"], [[1.5 * ratio], [4 * ratio]], rtol=1e-6)
    np.testing.assert_allclose(first["bias"], [2.0])
    second, _ = update(grads, state, params)
    np.testing.assert_allclose(second["kernel"], 1.5 * first["kernel"], rtol=1e-6)
    np.testing.assert_allclose(second["bias"], [3.0])


def test_warm_cosine():
    """A fifth of the way up, then down: at 0.6 half of the way down is done."""
    progress = jnp.array([0.0, 0.1, 0.2, 0.6, 1.0])
    got = optim.warm_cosine(progress, 0.2)
    np.testing.assert_allclose(got, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(optim.warm_cosine(progress, 0.0), optim.cosine(progress))
