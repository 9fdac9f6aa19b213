import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from plugins import levels

from jaxad import config as config_lib
from jaxad import losses, models, names
from jaxad.devices import sharding
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.methods import spd, spd_fields

SIDE, BATCH = 32, 16


def make_config(base="simsiam", backbone="plugins.levels", **changes):
    config = config_lib.base()
    config.dataset.image_size = (SIDE, SIDE)
    config.backbone.update(name=backbone, weights="random", taps=("layer1", "layer2"))
    with config.unlocked():
        config.method = spd.fields(base)
        config.method.update(projector=(16, 8), bottleneck=4, queue=64, classes=3)
        config.method.update(batch_size=BATCH, zero_residuals=False)
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        config.method.update_from_flattened_dict(changes)
    return config


def build(*args, **changes):
    return folder.networks(make_config(*args, **changes)).method


def make_stage(*args, **changes):
    (stage,) = build(*args, **changes).stages
    return stage


def init_of(stage):
    return lambda key, params: stage.init(key, params, (SIDE, SIDE, 3))


@functools.cache
def variables():
    """Of the shapes that a backbone has; a real initialiser takes long to compile."""
    images = jnp.zeros((1, SIDE, SIDE, 3))
    return drawn(jax.eval_shape(levels.Tiny().init, jax.random.key(0), images))


def drawn(shapes):
    random = np.random.default_rng(0)

    def one(path, x):
        values = 0.3 * random.normal(size=x.shape)
        if "var" in jax.tree_util.keystr(path) or not x.ndim:
            values = np.abs(values)
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


def make_batch(progress=0.5):
    images = np.random.default_rng(0).random((BATCH, 4, 4, 3), np.float32)
    images = np.kron(images, np.ones((1, 8, 8, 1), np.float32))
    index = jnp.arange(BATCH, dtype=jnp.int32)
    return {
        "image": jnp.asarray(images),
        "index": index,
        "label": index % 3,
        "progress": jnp.float32(progress),
    }


@pytest.fixture
def plain_views(monkeypatch):
    runs.plain_views(monkeypatch)


@functools.cache
def started(base, **changes):
    """A state as any step leaves it, and the step."""
    with pytest.MonkeyPatch.context() as patch:
        runs.plain_views(patch)
        stage = make_stage(base, level="layer2", **changes)
    shapes = jax.eval_shape(
        init_of(stage), jax.random.key(0), {"backbone": variables()}
    )
    return drawn(shapes), jax.jit(stage.step)


# ---- What every base does


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("simsiam", dict(anchor="plain", view_size=(16, 16), stop_positive=True)),
        ("simsiam", dict(term="classifier", perturbation="cutpaste", norm="layer")),
        ("moco", dict(groups=4)),
        ("simclr", dict(smooth_blend__literal=True, groups=2)),
        ("supervised", dict()),
        ("supervised", dict(eta=0.0, term="cosine")),
    ],
    ids=str,
)
def test_every_switch_traces(base, changes):
    stage = make_stage(base, **changes)
    params = {"backbone": variables()}
    state = jax.eval_shape(init_of(stage), jax.random.key(0), params)
    after, curves = jax.eval_shape(stage.step, state, make_batch(), jax.random.key(0))
    # The loop carries the state: its shapes and types may not change.
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () for value in curves.values())
    assert ("spd" in curves) == bool(changes.get("eta", 0.1))
    handed_on = jax.eval_shape(stage.finish, after, params)
    assert jax.tree.map(jnp.shape, handed_on) == jax.tree.map(jnp.shape, params)


def test_one_device_computes_what_eight_do():
    """MoCo, in its eight groups, with keys across them."""
    state, step = started("moco", eta=0.0)
    mesh = sharding.make_mesh()

    def shared(x):
        return sharding.spread(x, mesh) if x.ndim else sharding.replicate(x, mesh)

    copies = jax.tree.map(lambda x: sharding.replicate(x, mesh), state)
    spread = jax.tree.map(shared, make_batch())
    alone = step(state, make_batch(), jax.random.key(3))
    together = step(copies, spread, jax.random.key(3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
        alone,
        together,
    )
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        alone[0]["learnt"]["backbone"],
        state["learnt"]["backbone"],
    )
    assert all(jax.tree.leaves(moved))


def test_simclr_compares_with_the_rows_of_all_devices():
    z = jax.random.normal(jax.random.key(0), (2, 16, 4))
    loss = jax.jit(jax.value_and_grad(losses.ntxent_loss))
    alone = loss(z[0], z[1])
    together = loss(*(sharding.spread(rows, sharding.make_mesh()) for rows in z))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_loss_is_its_base_and_the_weighted_term():
    state, step = started("simsiam")
    _, curves = step(state, make_batch(), jax.random.key(3))
    spd_of = curves["cosine_to_negative"] - curves["cosine_to_positive"]
    np.testing.assert_allclose(curves["spd"], spd_of, rtol=1e-4, atol=1e-6)
    want = curves["base"] + 0.1 * curves["spd"]
    np.testing.assert_allclose(curves["loss"], want, rtol=1e-5)


def test_the_term_alone_pushes_negatives_away_and_not_positives():
    """Twenty steps on one batch whose views stay the same.

    At this rate the way down is smooth, and so the same whatever the compiler's sums.
    """
    state, step = started("simsiam", eta=50.0, learning_rate=0.03)
    batch, curves = make_batch(), []
    for _ in range(20):
        state, found = step(state, batch, jax.random.key(3))
        curves.append(found)
    far, near = "cosine_to_negative", "cosine_to_positive"
    assert curves[-1][far] < curves[0][far] - 0.3
    assert curves[-1][near] > curves[0][near] + 0.1


# ---- SimSiam


def test_the_predictors_rate_stays_when_all_others_have_fallen_to_zero():
    state, step = started("simsiam")
    after, _ = step(state, make_batch(progress=1.0), jax.random.key(3))
    for part in ("backbone", "z", "p"):
        moved = [
            bool((a != b).any())
            for a, b in zip(
                jax.tree.leaves(after["learnt"][part]),
                jax.tree.leaves(state["learnt"][part]),
                strict=True,
            )
        ]
        assert all(moved) if part == "p" else not any(moved), part


def test_residual_blocks_begin_as_the_identity():
    images = jnp.zeros((1, SIDE, SIDE, 3))
    init = models.spec("resnet18").module().init
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    changed = models.spec("resnet18").zero_residuals(ones["params"])
    scales = {
        name: [float(block[conv]["norm"]["scale"][0]) for conv in ("conv1", "conv2")]
        for name, block in changed.items()
        if "conv2" in block
    }
    assert len(scales) == 8 and set(map(tuple, scales.values())) == {(1.0, 0.0)}


# ---- MoCo


def test_the_queue_takes_new_keys_and_loses_the_oldest():
    state, step = started("moco", eta=0.0)
    after, _ = step(state, make_batch(), jax.random.key(3))
    np.testing.assert_array_equal(after["queue"][BATCH:], state["queue"][:-BATCH])
    assert not np.isin(after["queue"][:BATCH], state["queue"]).any()


def test_slow_networks_follow_by_a_thousandth():
    state, step = started("moco", eta=0.0)
    state = state | {"slow": jax.tree.map(jnp.zeros_like, state["slow"])}
    after, _ = step(state, make_batch(), jax.random.key(3))
    for name in ("backbone", "z"):
        jax.tree.map(
            lambda slow, fast: np.testing.assert_allclose(slow, 1e-3 * fast, rtol=1e-3),
            after["slow"][name],
            state["learnt"][name],
        )


def test_a_group_is_normalised_by_itself_and_rows_keep_their_order():
    def centred(x):
        return {"y": x - x.mean(0, keepdims=True)}, {"mean": x.mean()}

    found, statistics = spd._by_groups(centred, jnp.arange(6.0)[:, None], 3)
    np.testing.assert_allclose(found["y"][:, 0], [-0.5, 0.5] * 3)
    np.testing.assert_allclose(statistics["mean"], 2.5)
    whole, _ = spd._by_groups(centred, jnp.arange(6.0)[:, None], 1)
    np.testing.assert_allclose(whole["y"][:, 0], np.arange(6) - 2.5)


def test_the_leak_through_group_statistics_and_how_shuffling_closes_it():
    """A network that sees nothing of its picture but its group's statistics.

    Unshuffled it finds the group of every key, since query and key share it: 16 rows in
    8 groups. Shuffled, the groups of keys are others.
    """

    def of_group(x):
        return {"z": jnp.broadcast_to(x.mean(0, keepdims=True), x.shape)}, {}

    def keys_of(x):
        return spd._by_groups(of_group, x, 8)[0]["z"]

    pictures = jax.random.normal(jax.random.key(0), (16, 4))
    queries, leaking = keys_of(pictures), keys_of(pictures)
    shuffled = spd._shuffled(keys_of, jax.random.key(1), pictures)

    def found(keys):
        nearest = jnp.abs(queries[:, None] - keys[None]).sum(2).argmin(1)
        return float((nearest // 2 == jnp.arange(16) // 2).mean())

    assert found(leaking) == 1.0
    assert found(shuffled) < 0.5
    # Rows come back in their own order.
    np.testing.assert_array_equal(
        spd._shuffled(lambda x: 2 * x, jax.random.key(1), pictures), 2 * pictures
    )


# ---- Views


def test_the_negative_is_a_positive_with_a_spot():
    options = make_config(
        weak__scale=(1.0, 1.0), weak__ratio=(1.0, 1.0), weak__jittered=0.0,
        weak__blurred=0.0, weak__flipped=0.0, smooth_blend__jitter=(0.4, 0, 0, 0),
    ).method  # fmt: skip
    batch = make_batch()
    spots = jax.jit(spd._spots(options))
    made = spots(jax.random.key(0), batch, batch["image"])
    np.testing.assert_allclose(made["positive"], batch["image"], atol=1e-6)
    changed = np.abs(made["negative"] - batch["image"]).max(-1) > 1e-3
    share = changed.mean((1, 2))
    assert (share > 0).all() and (share < 0.25).all()


def test_views_depend_on_the_picture_and_the_step_alone(plain_views):
    views = jax.jit(spd._views(make_config().method, (SIDE, SIDE)))
    batch = make_batch()
    turned = {name: x[::-1] for name, x in batch.items() if name != "progress"}
    one, other = views(jax.random.key(0), batch), views(jax.random.key(0), turned)
    assert one.keys() == {"view1", "view2", "positive", "negative"}
    for name in one:
        np.testing.assert_allclose(one[name], other[name][::-1], atol=1e-6)
    later = views(jax.random.key(1), batch)
    assert all((one[name] != later[name]).any() for name in one)


# ---- Fields


@pytest.mark.parametrize("base", spd_fields.BASES)
def test_recipes_work_as_they_are(base):
    config = make_config()
    config.dataset.image_size = (256, 256)
    config.method = spd.fields(base)
    config.method.view_size = (224, 224)
    spd_fields.check(config)
    assert config.method.base == base


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("moco", dict(queue=40), "method.queue=40 must be a multiple of .*size=16"),
        ("moco", dict(queue=8), "method.queue=8 must be a multiple"),
        ("simclr", dict(batch_size=1), "method.batch_size=1 must be at least 2"),
        ("moco", dict(groups=16), "batch_size=16 must be a multiple of .*groups=16"),
        ("moco", dict(groups=3), "batch_size=16 must be a multiple of .*groups=3"),
        ("simsiam", dict(view_size=(64, 64)), "view_size=.* at most what views are cu"),
        ("simsiam", dict(base="byol"), "method.base='byol' is not known"),
        ("simsiam", dict(level="layer9"), "has no level 'layer9'"),
        ("simsiam", dict(zero_residuals=True), "levels has no blocks"),
        ("supervised", dict(classes=0), "the corpus has no classes"),
        ("supervised", dict(term="cosine"), "it has no projections to compare"),
        ("simsiam", dict(projector=()), "method.projector=.* at least one layer"),
        ("simsiam", dict(held_out=1.0), "held_out=1.0 must be 0 or more and below 1"),
        ("simsiam", dict(smooth_blend__blur=(6.0, 2.0)), "method.smooth_blend.blur"),
        ("simsiam", dict(strong__jitter=(0.4,)), "method.strong.jitter"),
    ],
    ids=str,
)
def test_mistakes_are_named(base, changes, message):
    config = make_config(base)
    config.method.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    with pytest.raises(InputError, match=message):
        _ = folder.networks(config).method.stages


def test_backbones_without_residuals_are_told_by_their_names():
    """Before JAX is imported; one's own are known once they are."""
    residual = {x for x in names.BACKBONES if models.spec(x).zero_residuals}
    assert residual == set(names.RESIDUAL)
    config = make_config(backbone="efficientnet_lite0", zero_residuals=True)
    with pytest.raises(InputError, match="False: efficientnet_lite0 has no blocks"):
        spd_fields.check(config)
    config.method.epochs = 0  # which leaves all as it is
    spd_fields.check(config)


def test_weights_that_are_given_keep_their_residuals():
    config = make_config(backbone="resnet18", zero_residuals=True)
    config.backbone.weights = "default"
    with pytest.raises(InputError, match="zero_residuals=True must be False unless"):
        folder.networks(config)


def test_collapse_is_told_after_a_tenth_of_the_steps():
    stop = make_stage(collapsed=0.1).stop
    assert stop({"spread": 0.05}, 0.05) is None
    assert stop({"spread": 0.2}, 0.5) is None
    assert "spread 0.05 is below config.method.collapsed=0.1" in stop(
        {"spread": 0.05}, 0.5
    )
