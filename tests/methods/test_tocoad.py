import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from plugins.levels import Tiny

from configs import tocoad_mvtec
from jaxad import config as config_lib
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.methods import tocoad, tocoad_contrast, tocoad_fields, tocoad_parts
from jaxad.methods.base import Backbone
from jaxad.models import heads
from jaxad.run import pipeline as pipeline_lib

SIDE, BATCH = 32, 4


def make_backbone():
    module = Tiny()

    def levels(variables, images):
        maps = module.apply(variables, images)[1]
        return [maps["layer1"], maps["layer2"]]

    return Backbone(
        "tiny", module, ("layer1", "layer2"), (0.5,) * 3, (0.25,) * 3, levels
    )


def make_config(**changes):
    config = config_lib.base()
    config.dataset.image_size = (SIDE, SIDE)
    with config.unlocked():
        config.method = tocoad.fields()
        config.method.decoder.depths = (1, 1, 1)
        config.method.heads.width = 16
        config.method.heads.bottleneck = 8
        config.method.dnp.batch_size = config.method.ncl.batch_size = BATCH
        for field, value in changes.items():
            *path, last = field.split("__")
            functools.reduce(lambda tree, part: tree[part], path, config.method)[
                last
            ] = value
    return config


@functools.cache
def backbone_variables():
    images = jnp.zeros((1, SIDE, SIDE, 3))
    return jax.jit(Tiny().init)(jax.random.key(0), images)


def make_batch(progress=0.1):
    images = np.random.default_rng(0).random((BATCH, 4, 4, 3), np.float32)
    images = np.kron(images, np.ones((1, 8, 8, 1), np.float32))
    index = jnp.arange(BATCH, dtype=jnp.int32)
    return {"image": jnp.asarray(images), "index": index, "progress": progress}


def start(stage, params):
    init = jax.jit(stage.init, static_argnums=2)
    return init(jax.random.key(0), params, (SIDE, SIDE, 3))


def run(stage, params, steps):
    state = start(stage, params)
    step, history = jax.jit(stage.step), []
    for i in range(steps):
        state, metrics = step(state, make_batch(), jax.random.key(i))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def stages(**changes):
    return tocoad.build(make_config(**changes), make_backbone()).stages


@pytest.fixture
def plain(monkeypatch):
    """For tests that any views and defects will do for."""
    runs.plain_views(monkeypatch)


@functools.cache
def after_stage_one():
    """Params after a few dozen steps of stage I, and its curves; of plain defects."""
    params = {"backbone": backbone_variables()}
    with pytest.MonkeyPatch.context() as patch:
        runs.plain_views(patch)
        (dnp, _) = stages(texture="noise", dnp__learning_rate=3e-3)
        state, history = run(dnp, params, 40)
    return dnp.finish(state, params), history


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_stage_one_teaches_the_discriminator_and_leaves_the_backbone():
    params, history = after_stage_one()
    assert equal(params["backbone"], backbone_variables())
    losses = [metrics["loss"] for metrics in history]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert history[-1]["found"] > history[-1]["false_alarm"]


def test_the_learning_rate_drops_twice():
    fields = tocoad.fields().dnp
    fields.learning_rate = 10.0
    progress = jnp.asarray([0.0, 0.79, 0.8, 0.89, 0.9, 1.0])
    np.testing.assert_allclose(
        tocoad._dropped(fields, progress), [10, 10, 2, 2, 0.4, 0.4], rtol=1e-6
    )
    fields.update(drop_at=(), drop=0.5)
    assert float(tocoad._dropped(fields, jnp.float32(1.0))) == 10.0


@pytest.mark.parametrize(
    "generator, changes, area",
    [
        ("cutpaste_patch", {"patch.area": (0.25, 0.25), "patch.aspect": (1.0, 1.0)}, 1),
        ("cutpaste_scar", {"scar.width": (16.0, 16.0), "scar.rotation": 0.0}, 0.625),
    ],
)
def test_the_generators_constants_are_fields(generator, changes, area):
    options = tocoad.fields()
    options.generator = generator
    options.cutpaste.update_from_flattened_dict(changes)
    options.cutpaste.scar.height = (10.0, 10.0)
    batch = {"image": jnp.zeros((4, 32, 32, 3)), "index": jnp.arange(4)}
    _, mask = jax.jit(tocoad_parts.generator(options))(jax.random.key(0), batch)
    # In units of 16 x 16 pixels.
    np.testing.assert_allclose(mask.sum((1, 2)), 256 * area, rtol=0.15)


def test_stage_two_moves_the_backbone_only(plain):
    params, _ = after_stage_one()
    _, ncl = stages(
        texture="noise", guide="per_class", ncl__anchor=3.0,
        ncl__backbone_learning_rate=1e-3,
    )  # fmt: skip
    state, history = run(ncl, params, 2)
    drifts = [step["drift"] for step in history]
    assert drifts[0] < 1e-9 and drifts[1] > 1e-7  # from where F was before
    for step in history:
        total = step["contrastive"] + step["guide"] + 3.0 * step["drift"]
        assert step["loss"] == pytest.approx(total, rel=1e-5)
    assert equal(state["discriminator"], params["discriminator"])
    assert equal(state["statistics"], params["backbone"]["batch_stats"])
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        state["learnt"]["backbone"],
        params["backbone"]["params"],
    )
    assert all(jax.tree.leaves(moved))
    handed_on = ncl.finish(state, params)
    assert set(handed_on) == {"backbone"}
    assert set(handed_on["backbone"]) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("schedule", "statistics", "moves"),
    [("cosine", "frozen", False), ("constant", "batch", True)],
)
def test_the_last_step_of_stage_two(schedule, statistics, moves, plain):
    """A cosine has come to 0, and what is frozen stays."""
    (ncl,) = stages(
        stages=("ncl",), guide="none",
        ncl__schedule=schedule, ncl__statistics=statistics,
    )  # fmt: skip
    params = {"backbone": backbone_variables()}
    state = start(ncl, params)
    batch = make_batch(progress=1.0)
    state, _ = jax.jit(ncl.step)(state, batch, jax.random.key(0))
    after = ncl.finish(state, params)["backbone"]
    for collection in ("params", "batch_stats"):
        stays = equal(after[collection], params["backbone"][collection])
        assert stays != moves, collection


def test_statistics_of_the_batch_are_those_of_its_training_mode():
    @jax.jit
    def both(variables, images):
        ours = tocoad_parts.run(make_backbone(), variables, images, "batch")
        want = Tiny().apply(variables, images, train=True, mutable=["batch_stats"])
        return ours, (want[0][1], want[1]["batch_stats"])

    ours, want = both(backbone_variables(), make_batch()["image"])
    assert equal(ours, want)
    assert not equal(ours[1], backbone_variables()["batch_stats"])


def test_a_slow_target_follows(plain):
    """It begins at F, is what predictions aim at, and goes a tenth of the way."""
    (ncl,) = stages(
        stages=("ncl",), guide="none", ncl__target=0.9, ncl__vicreg=2.0,
        ncl__backbone_learning_rate=1e-2,
    )  # fmt: skip
    params = {"backbone": backbone_variables()}
    before = start(ncl, params)
    assert equal(before["target"], before["learnt"])
    state, [metrics] = run(ncl, params, 1)
    assert metrics["loss"] == pytest.approx(
        metrics["contrastive"] + 2.0 * metrics["vicreg"], rel=1e-5
    )
    want = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, before["target"], state["learnt"]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        *(state["target"], want),
    )
    # A target of its own: the loss does not go by F's projections any more.
    other = before | {"target": jax.tree.map(lambda x: x[..., ::-1], before["target"])}
    _, after = jax.jit(ncl.step)(other, make_batch(), jax.random.key(0))
    assert abs(float(after["contrastive"]) - metrics["contrastive"]) > 1e-3


@pytest.mark.parametrize("trains", ["normalisation", "tapped"])
def test_a_part_of_the_backbone_is_trained(trains, plain):
    (ncl,) = stages(
        stages=("ncl",), guide="none", ncl__trains=trains,
        ncl__backbone_learning_rate=1e-2,
    )  # fmt: skip
    state, _ = run(ncl, {"backbone": backbone_variables()}, 1)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        *(state["learnt"]["backbone"], backbone_variables()["params"]),
    )
    for name, conv in moved.items():
        tapped = name in ("conv1", "conv2")  # which the memory bank sees
        kernel, norm = (tapped,) * 2 if trains == "tapped" else (False, True)
        assert conv == {"kernel": kernel, "norm": {"scale": norm, "bias": norm}}, name


def test_heads_may_learn_first():
    fields = make_config(
        ncl__heads_first=0.5, ncl__backbone_learning_rate=2.0,
        ncl__heads_learning_rate=8.0,
    ).method.ncl  # fmt: skip
    for progress, of_f, of_heads in (
        (0.0, 0, 8), (0.49, 0, 8), (0.5, 2, 8), (0.75, 1, 8), (1.0, 0, 8),
    ):  # fmt: skip
        rates = tocoad_contrast._rates(fields, jnp.float32(progress))
        assert rates["backbone"] == pytest.approx(of_f, abs=1e-6)
        assert rates["heads"] == pytest.approx(of_heads, abs=1e-6)
    fields.heads_first = 0.0
    rates = tocoad_contrast._rates(fields, jnp.float32(0.5))
    assert (rates["backbone"], rates["heads"]) == pytest.approx((1.0, 4.0))
    fields.schedule = "constant"
    rates = tocoad_contrast._rates(fields, jnp.float32(1.0))
    assert (rates["backbone"], rates["heads"]) == (2.0, 8.0)


def test_by_place_nothing_moves_but_colours():
    """The same place of two views is the same place of the image."""
    options = make_config(positives="place", views__jitter=0.0).method
    batch = make_batch()
    for view in tocoad_contrast._weak_views(options)(jax.random.key(0), batch):
        np.testing.assert_allclose(view, batch["image"], atol=1e-6)
    options.views.jitter = 0.4
    one, other = tocoad_contrast._weak_views(options)(jax.random.key(0), batch)
    assert jnp.abs(one - other).max() > 0.05


def test_the_guides_gradient_reaches_the_backbone(plain):
    """D stands still, so only F can lower its loss on the same anomalies."""
    params, _ = after_stage_one()
    _, ncl = stages(
        lambda_neg__gradient=1000.0, texture="noise", ncl__backbone_learning_rate=1e-3,
    )  # fmt: skip
    state = start(ncl, params)
    step, guide = jax.jit(ncl.step), []
    for _ in range(50):
        state, metrics = step(state, make_batch(), jax.random.key(7))
        guide.append(float(metrics["guide"]))
    assert guide[-1] < 0.8 * guide[0]


def test_feature_guide_repels_only_where_there_is_an_anomaly():
    p = jnp.asarray([[1.0, 0.0], [1.0, 0.0]])
    n = jnp.asarray([[1.0, 1.0], [1.0, 0.0]])
    there = jnp.asarray([1.0, 0.0])
    # Half of cos 45 degrees from the first view, nothing from the opposite second.
    ours = tocoad_contrast._repel([p], [-p], [n], [there])
    np.testing.assert_allclose(ours, 0.5 * 0.5**0.5, rtol=1e-6)
    none = tocoad_contrast._repel([p], [p], [n], [0 * there])
    assert none == 0
    # A place counts as much as D sees of it: 3 parts of cos 45 degrees, 1 of 1.
    shares = tocoad_contrast._repel([p], [p], [n], [jnp.asarray([0.03, 0.01])])
    np.testing.assert_allclose(shares, (3 * 0.5**0.5 + 1) / 4, rtol=1e-6)


def test_pooling_where_the_mask_is():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    mask = jnp.zeros((1, 4, 4)).at[0, :2, 2:].set(1.0)
    ((pooled,), (there,)), ((places,), (weights,)) = (
        tocoad_contrast._anomalous(
            make_config(levels=("level",), positives=positives).method,
            *({"level": x}, mask, mask),
        )
        for positives in ("image", "place")
    )
    # The upper right quarter is most of the second pixel.
    mean = float(pooled[0, 0])
    assert abs(mean - 1) < abs(mean - 1.5)
    np.testing.assert_array_equal(there, [1.0])
    # By place nothing is pooled, and the second place counts most.
    np.testing.assert_array_equal(places, jnp.arange(4.0)[:, None])
    assert weights.shape == (4,) and weights.argmax() == 1
    assert mean == pytest.approx(float((places[:, 0] * weights).sum() / weights.sum()))


def test_negatives_are_what_d_sees_inside_the_mask():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    mask = jnp.zeros((1, 4, 4)).at[0, 2:, 2:].set(1.0)
    # D is at odds everywhere: the mean of all would be 1.5, and is 3 of the defect.
    seen = tocoad_contrast._shown(jnp.zeros((1, 4, 4, 2)), mask)
    np.testing.assert_array_equal(seen, 0.5 * mask)
    pooled = tocoad_contrast._pooled_where(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), seen)
    assert float(pooled[0, 0]) == pytest.approx(3.0)


def test_what_negatives_have_in_common_stays():
    """Ten deviations away from the views they are ten deviations away."""
    norm = heads.Norm("batch", affine=False)
    # Views at 0 and 2: mean 1, deviation 1.
    x = jnp.asarray([[0.0], [2.0], [11.0], [11.0]])
    found = norm.apply({}, x, 2).ravel()
    np.testing.assert_allclose(found, [-1, 1, 10, 10], rtol=1e-4)
    # By their own statistics nothing would be left of it.
    assert (norm.apply({}, x[2:]) == 0).all()


def test_images_without_a_defect_are_no_negatives():
    """Whatever they hold, the negatives of the others are the same."""
    siamese = heads.SimSiamHeads(levels=1, width=8, bottleneck=4)
    random = np.random.default_rng(0)
    views, shown = (random.normal(size=(4, 6)).astype(np.float32) for _ in range(2))

    @jax.jit
    def project(*negatives):
        params = siamese.init(jax.random.key(0), [views])
        among = functools.partial(siamese.apply, params, method=siamese.project_among)
        return [among([x], [views])[0] for x in negatives]

    found, other, shifted = project(
        shown, np.r_[shown[:2], 1e3 + shown[2:]], shown + 10
    )
    np.testing.assert_allclose(found[:2], other[:2], rtol=1e-5, atol=1e-5)
    assert jnp.abs(shifted - found).max() > 0.1  # a shift of all is seen


def test_each_guide_has_a_weight_of_its_own():
    options = tocoad.fields()
    weights = {}
    for guide in ("gradient", "per_class", "feature", "none"):
        options.guide = guide
        weights[guide] = tocoad_fields.weight_of_guide(options)
    assert weights == {
        "gradient": 100.0, "per_class": 1.0, "feature": 1.0, "none": 0.0,
    }  # fmt: skip


def test_what_d_sees_is_its_pixel_auroc():
    p = np.array([[[0.9, 0.4], [0.4, 0.1]], [[0.7, 0.4], [0.0, 1.0]]], np.float32)
    mask = jnp.asarray([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    with np.errstate(divide="ignore"):
        logits = jnp.stack([jnp.zeros(p.shape), np.log(p / (1 - p))], -1)
    # Of the normal 0.4, 0.1, 0.7, 0.4 and 0: 0.9 and 1 are above all five, 0.4 is above
    # two and ties with two.
    assert tocoad_contrast._sight(logits, mask) == pytest.approx(13 / 15)
    assert tocoad_contrast._sight(jnp.zeros(logits.shape), mask) == 0.5
    assert tocoad_contrast._sight(logits, jnp.zeros(mask.shape)) == 0.0


def test_stage_two_ends_where_d_sees_too_little():
    _, ncl = stages(sight=0.8)
    assert ncl.stop({"found": 0.3, "sight": 0.81}, 0.1) is None
    assert "drawn anew is 0.75, less than config.method.sight=0.8" in ncl.stop(
        {"found": 0.3, "sight": 0.75}, 0.1
    )
    # A batch without a defect says nothing, and the default asks for nothing.
    assert ncl.stop({"found": 0.0, "sight": 0.0}, 0.1) is None
    assert stages()[1].stop({"found": 0.05}, 0.1) is None
    assert stages(stages=("ncl",), guide="none")[0].stop({}, 0.1) is None


def test_without_simsiam_projections_are_pushed():
    """The predictor has no other loss, and would turn away all by itself."""
    options = tocoad.fields()
    z, p, n = (jnp.asarray([x]) for x in ([1.0, 1.0], [0.0, 1.0], [1.0, 0.0]))
    found = {}
    for name in ("simsiam", "ntxent"):
        options.contrastive = name
        v1, v2 = tocoad_contrast._drawn(options, ([p], [p]), ([z], [z]))
        push = tocoad_contrast._repel(v1, v2, [n], [jnp.ones(1)])
        found[name] = float(push)
    # The prediction has turned away; what it was made of has not, by 45 degrees.
    assert found == {"simsiam": 0.0, "ntxent": pytest.approx(0.5**0.5)}


def test_stage_one_s_loss_does_not_change_the_guide():
    """A larger gamma would make it weaker."""
    params = {"backbone": backbone_variables()}

    def program(**changes):
        dnp, ncl = stages(**changes)
        frozen = jax.eval_shape(functools.partial(start, dnp), params)
        learnt = jax.eval_shape(dnp.finish, frozen, params)
        state = jax.eval_shape(functools.partial(start, ncl), learnt)
        return str(jax.make_jaxpr(ncl.step)(state, make_batch(), jax.random.key(0)))

    assert program(focal__gamma=4.0, focal__alpha=0.25) == program()
    (dnp, _) = stages()
    assert "focal" in dnp.fields and "guide_focal" not in dnp.fields


def test_a_category_has_its_own_constants():
    given = (("nut", "nsa.background", [20, 20]), ("nut", "nsa.patches", 4))
    options = make_config(by_category=given).method
    mine = tocoad.of_category(options, "nut")
    assert (mine.nsa.background, mine.nsa.patches) == ((20, 20), 4)
    assert (options.nsa.background, options.nsa.patches) == ((), 3)
    assert tocoad.of_category(options, "cable") is options
    with pytest.raises(InputError, match="method.nsa.patches"):
        wrong = make_config(by_category=(("nut", "nsa.patches", 0),)).method
        tocoad.of_category(wrong, "nut")


def test_all_categories_of_mvtec_have_nsa_s_constants():
    config = tocoad_mvtec.get_config()
    found = {
        category: tocoad.of_category(config.method, category).nsa
        for category in ("bottle", "hazelnut", "screw", "transistor", "carpet")
    }
    backgrounds = {category: nsa.background for category, nsa in found.items()}
    assert backgrounds == {
        "bottle": (200, 60), "hazelnut": (20, 20), "screw": (200, 60),
        "transistor": (), "carpet": (),
    }  # fmt: skip
    assert found["screw"].min_object == 0.5 and found["carpet"].resize == (0.5, 2.0)
    with_rule = {c for c, name, _ in config.method.by_category if "background" in name}
    assert len(with_rule) == 8


def test_a_pipeline_trains_a_category_with_its_own_constants():
    config = make_config(by_category=(("nut", "nsa.patches", 4),))
    config.backbone.update(name="plugins.levels", taps=("layer1", "layer2"))
    networks = folder.networks(config)
    pipeline = pipeline_lib.Pipeline(config, *networks[:1], {}, "", *networks[1:], None)
    assert pipeline.of_category("cable") is pipeline
    nut = pipeline.of_category("nut")
    assert nut.config.method.nsa.patches == 4 and nut.method is pipeline.method
    assert nut.stages is not pipeline.stages and len(nut.stages) == 2


@pytest.mark.parametrize(
    "changes",
    [
        dict(generator="cutpaste", guide="feature", levels=("layer2", "layer3")),
        dict(generator="cutpaste_patch", contrastive="ntxent", guide="feature"),
        dict(generator="cutpaste_scar", decoder__skip="unet"),
        dict(generator="nsa"),
        dict(
            heads__norm="layer",
            texture="noise",
            views__flip=True,
            perlin__rotate_image=0.3,
        ),
        dict(stages=("ncl",), guide="none"),
        dict(guide="per_class", ncl__anchor=1.0, sight=0.8),
        dict(positives="place", guide="feature", ncl__target=0.9, ncl__vicreg=1.0),
        dict(
            positives="place",
            guide="feature",
            negatives="discriminator",
            levels=("layer1", "layer3"),
            decoder__skip="unet",
        ),
        dict(stages=("dnp", "ncl", "ranking"), grey=True, in_score=True),
        dict(
            texture="noise",
            dnp__optimiser="sgd",
            dnp__statistics="batch",
            ncl__optimiser="adamw",
            ncl__statistics="batch",
        ),
        dict(stages=()),
    ],
    ids=str,
)
def test_every_switch_traces(changes):
    trace(stages(**changes))


def trace(method_stages):
    params = {"backbone": backbone_variables()}
    for stage in method_stages:
        state = jax.eval_shape(functools.partial(start, stage), params)
        after, metrics = jax.eval_shape(
            stage.step, state, make_batch(), jax.random.key(0)
        )
        # The loop carries the state: its shapes and types may not change.
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        assert all(value.shape == () for value in metrics.values())
        params = jax.eval_shape(stage.finish, after, params)


def test_lengths_follow_the_number_of_images():
    dnp, ncl = stages(dnp__batch_size=16, ncl__batch_size=32)
    assert (dnp.num_steps(60), ncl.num_steps(60)) == (2000, 500)
    assert (dnp.num_steps(1000), ncl.num_steps(1000)) == (6200, 620)


def test_what_perlin_pastes():
    """DTD's picture of the batch, or the next image: the same where they are equal."""
    batch, key = make_batch(), jax.random.key(0)
    generated = {}
    for texture in ("dtd", "images"):
        config = make_config(texture=texture, perlin__unchanged=0.0)
        generate = jax.jit(tocoad_parts.generator(config.method))
        next_image = jnp.roll(batch["image"], 1, 0)
        generated[texture] = generate(key, batch | {"texture": next_image})
    jax.tree.map(np.testing.assert_array_equal, *generated.values())
    image, mask = generate(key, batch)
    assert (image != batch["image"]).any() and mask.sum() > 0


def test_grey_defects_have_no_colours():
    batch, key = make_batch(), jax.random.key(0)
    drawn = {}
    for grey in (False, True):
        config = make_config(generator="cutpaste_patch", grey=grey)
        drawn[grey] = jax.jit(tocoad_parts.generator(config.method))(key, batch)
    (coloured, mask), (image, same) = drawn[False], drawn[True]
    inside = np.asarray(mask) > 0
    assert inside.any() and (np.asarray(same) == mask).all()
    np.testing.assert_array_equal(image[~inside], coloured[~inside])
    want = np.asarray(coloured)[inside] @ np.array([0.299, 0.587, 0.114])
    for channel in range(3):
        np.testing.assert_allclose(image[inside][:, channel], want, atol=1e-5)


@pytest.mark.parametrize(
    ("there", "changes", "settled"),
    [
        (True, {}, "dtd"),
        (False, {}, "images"),
        (False, {"dnp__batch_size": 1}, "noise"),
        (True, {"texture": "noise"}, "noise"),
        (True, {"generator": "nsa"}, "images"),
    ],
)
def test_the_texture_source_is_the_first_that_is_there(there, changes, settled):
    config = make_config(**changes)
    tocoad_fields.check(config)  # as before there is JAX: nothing is pasted yet
    tocoad.complete(config.method, textures=lambda: there or None)
    assert config.method.texture == settled
    stages = tocoad.build(config, make_backbone()).stages
    assert [stage.textures for stage in stages] == [settled == "dtd"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(stages=("dnp", "nlc")), "did you mean 'ncl'"),
        (dict(generator="perlim"), "did you mean 'perlin'"),
        (dict(texture="dtdd"), "method.texture"),
        (dict(guide="nobody"), "method.guide"),
        (dict(contrastive="moco"), "method.contrastive"),
        (dict(decoder__skip="full"), "method.decoder.skip"),
        (dict(heads__norm="group"), "method.heads.norm"),
        (dict(levels=("layer3", "layer9")), "no level 'layer9'"),
        (dict(levels=()), "method.levels"),
        (dict(by_category=(("nut", "nsa.pathces", 1),)), "nsa.pathces, which nut has"),
        (dict(by_category=(("nut", "ncl.epochs", 1),)), "ncl.epochs, which nut has"),
        (dict(by_category=("nut",)), "method.by_category.* a tuple of .category"),
        (dict(stages=("ncl",)), "nothing has taught the guide"),
        (dict(ranking__batch_size=1), "method.ranking.batch_size"),
        (dict(whitening__shrinkage=0.0), "method.whitening.shrinkage"),
        (
            dict(stages=("whitening",), whitening__log_odds=1.0),
            "whitening.log_odds=1.0 must be 0 .* nothing has taught D",
        ),
        (
            dict(stages=("dnp", "whitening"), whitening__log_odds=1.0, in_score=True),
            "whitening.log_odds=1.0 must be 0 with method.in_score",
        ),
        (
            dict(stages=("whitening",), in_score=True),
            "method.in_score=True must be false .* nothing has taught D",
        ),
        (dict(lambda_neg__feature=-1.0), "method.lambda_neg.feature"),
        (dict(ncl__anchor=-1.0), "method.ncl.anchor"),
        (dict(ncl__target=1.0), "method.ncl.target"),
        (dict(ncl__trains="norms"), "method.ncl.trains"),
        (
            dict(guide="feature", negatives="discriminator"),
            "method.levels.* some of layer1, layer2 and layer3",
        ),
        (dict(texture="images", dnp__batch_size=1), "another image of the batch"),
        (
            dict(generator="cutpaste", ncl__batch_size=1),
            'ncl.batch_size.*heads.norm "layer"',
        ),
        (dict(decoder__depths=(1, 1)), "decoder.depths"),
        (dict(decoder__depths=(1, 0, 1)), "decoder.depths"),
        (dict(focal__alpha=1.5), "method.focal.alpha"),
        (dict(focal__gamma=-1.0), "method.focal.gamma"),
        (dict(nsa__background=(200.0,)), "method.nsa.background"),
        (dict(dnp__drop_at=(0.8, 1.0)), "method.dnp.drop_at"),
        (dict(temperature=0.0), "method.temperature"),
        (dict(dnp__optimiser="adem"), "dnp.optimiser.*did you mean 'adam'"),
        (dict(ncl__optimiser="lamb"), "method.ncl.optimiser"),
        (dict(ncl__betas=(0.9,)), "method.ncl.betas"),
        (dict(dnp__betas=(0.9, 1.0)), "method.dnp.betas"),
        (dict(dnp__statistics="thawed"), "method.dnp.statistics"),
        (dict(ncl__schedule="linear"), "method.ncl.schedule"),
        (dict(perlin__lattices=0), "method.perlin.lattices"),
        (dict(perlin__vary__changes=11), "method.perlin.vary.changes"),
        (dict(nsa__median=4), "method.nsa.median"),
        (dict(nsa__further=1.5), "method.nsa.further"),
        (dict(nsa__patches=0), "method.nsa.patches"),
        (dict(perlin__vary__bits=(0, 8)), "method.perlin.vary.bits"),
        (dict(perlin__threshold=float("nan")), "method.perlin.threshold"),
        (dict(ncl__weight_decay=-1.0), "method.ncl.weight_decay"),
        (dict(dnp__drop_at=("a",)), "method.dnp.drop_at"),
        (
            dict(stages=("dnp",), dnp__statistics="batch"),
            'dnp.statistics=batch must be "frozen"',
        ),
        (dict(perlin__vary__gamma=(1.0,)), "method.perlin.vary.gamma"),
        (dict(views__scale=(1.0, 0.8)), "method.views.scale.* an upper bound"),
        (dict(cutpaste__scar__width=(2.0, 4.0, 6.0)), "method.cutpaste.scar.width"),
    ],
    ids=str,
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        stages(**changes)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        (dict(texture="dtd"), "dtd"),
        (dict(texture="noise"), "noise"),
        (dict(generator="nsa"), "images"),
        (dict(generator="cutpaste"), "itself"),
        (dict(stages=("ncl",), guide="none"), None),
        (dict(stages=("whitening", "ranking"), texture="noise"), "noise"),
        (dict(stages=("whitening",)), None),
        (dict(stages=()), None),
    ],
    ids=str,
)
def test_what_is_pasted(changes, answer):
    assert tocoad.pasted(make_config(**changes).method) == answer


def test_what_d_sees_is_a_channel_of_its_own():
    """Its log-odds, averaged over the pixels of a patch; the others are as without."""
    params, _ = after_stage_one()
    images = make_batch()["image"]
    seen = dict(stages=("dnp", "whitening"), whitening__log_odds=1.0)
    with_d, without = (
        tocoad.build(make_config(**changes), make_backbone()) for changes in (seen, {})
    )
    found = with_d.features(params, images)
    assert with_d.grid() == found.shape[1:] and without.grid is None
    np.testing.assert_array_equal(found[..., :-1], without.features(params, images))
    maps = Tiny().apply(params["backbone"], images)[1]
    network = tocoad_parts.discriminator(
        make_config().method, make_backbone(), (SIDE, SIDE)
    )
    levels = [maps[name] for name in tocoad_fields.LEVELS]
    logits = network.apply(params["discriminator"], levels, (SIDE, SIDE))
    inside = found[:, 4:12, 4:12, -1]  # patches of 2 x 2 pixels, clear of the border
    # A triangle over four pixels along each axis.
    weights = np.array([1, 3, 3, 1]) / 8
    odds = np.asarray(logits[..., 1] - logits[..., 0], np.float64)
    rows = sum(w * odds[:, 7 + i : 7 + i + 16 : 2] for i, w in enumerate(weights))
    want = sum(w * rows[:, :, 7 + i : 7 + i + 16 : 2] for i, w in enumerate(weights))
    np.testing.assert_allclose(inside, want, rtol=1e-4, atol=1e-5)
    assert np.ptp(inside) > 1e-3


@pytest.mark.parametrize(("share", "stays"), [(0.0, False), (1.0, True)])
def test_stage_two_hands_d_on_where_descriptors_hold_what_it_sees(share, stays):
    names = ("dnp", "ncl", "whitening")
    (_, ncl, _) = stages(stages=names, whitening__log_odds=share)
    state = {"learnt": {"backbone": 1}, "statistics": 2}
    handed = ncl.finish(state, {"backbone": 0, "discriminator": 3})
    assert ("discriminator" in handed) == stays
    assert handed["backbone"] == {"params": 1, "batch_stats": 2}


def test_empty_masks_are_counted():
    (dnp, _) = stages(perlin__unchanged=1.0, texture="noise")
    _, history = run(dnp, {"backbone": backbone_variables()}, 2)
    assert [metrics["empty_masks"] for metrics in history] == [BATCH, 2 * BATCH]


def test_a_backbone_without_levels_is_refused():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return images.mean((1, 2)), {"norm": images}

    backbone = make_backbone()._replace(name="flat", module=Flat())
    # A fitted detector, which asks for no stage, is built with any.
    method = tocoad.build(make_config(), backbone)
    with pytest.raises(InputError, match="layer1.*convolutional"):
        _ = method.stages
