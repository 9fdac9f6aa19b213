import functools

import jax
import numpy as np
import pytest
import scipy.ndimage

from jaxad.augment import anomalies, colour

SIDE = 48


def image(seed=0, side=SIDE):
    coarse = np.random.default_rng(seed).random((6, 6, 3))
    return np.kron(coarse, np.ones((side // 6, side // 6, 1))).astype(np.float32)


@functools.cache
def batch(generator):
    """64 samples of a generator on one image."""
    if generator is anomalies.perlin:
        return perlin()
    if generator is anomalies.nsa:
        return nsa()
    return draw(jax.random.key(0), image(), generator=generator)


# Programs are what costs time here: a generator's constants that are no shapes are
# arguments of one.


@functools.partial(jax.jit, static_argnames=("generator", "static"))
def _draw(key, pictures, numbers, generator, static):
    def one(key):
        return generator(key, *pictures, **numbers, **dict(static))

    return jax.vmap(one)(jax.random.split(key, 64))


def draw(key, *pictures, generator, static=(), **numbers):
    found = _draw(key, pictures, numbers, generator, static)
    return tuple(map(np.asarray, found))


def perlin(**numbers):
    numbers = dict(threshold=0.5, unchanged=0.5) | numbers
    # The noise as texture compiles fastest; one test below takes a picture.
    pictures = image(), None
    return draw(jax.random.key(0), *pictures, generator=anomalies.perlin, **numbers)


NUMBERS = dict(
    half_offset=0.03, half_scale=0.05, resize_deviation=0.5,
    patches=3, further=0.5, visible=1.0,
)  # fmt: skip


def nsa(picture=None, source=None, key=0, static=(), **numbers):
    picture = image() if picture is None else picture
    pictures = picture, image(1) if source is None else source
    options = dict(generator=anomalies.nsa, static=static) | NUMBERS | numbers
    return draw(jax.random.key(key), *pictures, **options)


alone = jax.jit(
    lambda generator, *arguments, **static: generator(*arguments, **static),
    static_argnums=0,
    static_argnames=("jitter", "area", "aspect", "blur", "literal", "background"),
)


GENERATORS = [
    anomalies.perlin,
    anomalies.cutpaste,
    anomalies.cutpaste_patch,
    anomalies.cutpaste_scar,
    anomalies.smooth_blend,
    anomalies.nsa,
]


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: g.__name__)
def test_range_shape_and_what_lies_outside_the_mask(generator):
    images, masks = batch(generator)
    assert images.shape == (64, SIDE, SIDE, 3) and masks.shape == (64, SIDE, SIDE)
    assert images.dtype == masks.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert set(np.unique(masks)) == {0.0, 1.0}
    change = np.abs(images - image()).mean(-1)
    if generator is anomalies.nsa:
        # The median may swallow pixels at the rim of what changed.
        expected = scipy.ndimage.median_filter(
            (change > 1 / 255).astype(np.float32), (1, 5, 5), mode="nearest"
        )
        np.testing.assert_array_equal(masks, expected)
    else:
        assert change[masks == 0].max() == 0
    assert (change * masks).sum((1, 2)).max() > 0


def test_a_sample_is_the_same_alone_and_in_a_batch():
    images, masks = batch(anomalies.nsa)
    key = jax.random.split(jax.random.key(0), 64)[5]
    found, mask = alone(anomalies.nsa, key, image(), image(1))
    np.testing.assert_allclose(found, images[5], atol=1e-6)
    np.testing.assert_array_equal(mask, masks[5])


def naive_perlin(gradients, y, x):
    """One position of gradient noise, written out."""
    total, (y0, x0) = 0.0, (int(np.floor(y)), int(np.floor(x)))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = 1.0
            for t, d in ((y - y0, dy), (x - x0, dx)):
                fade = 6 * t**5 - 15 * t**4 + 10 * t**3
                weight *= fade if d else 1 - fade
            gradient = gradients[y0 + dy, x0 + dx]
            total += weight * np.dot(gradient, (y - y0 - dy, x - x0 - dx))
    return total


def test_perlin_noise_equals_the_naive_sum():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(5, 5, 2))
    y, x = rng.random((2, 30)) * 4
    corners = np.arange(4.0)
    at = np.append(y, corners), np.append(x, corners)
    flat = gradients.reshape(25, 2)
    ours = jax.jit(anomalies.perlin_noise, static_argnums=1)(flat, 5, *at)
    expected = [naive_perlin(gradients, *at) for at in zip(y, x, strict=True)]
    np.testing.assert_allclose(ours[:30], expected, atol=1e-5)
    np.testing.assert_allclose(ours[30:], 0, atol=1e-6)


def test_perlin_blends_as_draem_says():
    """x_s = (1 - beta) texture + beta x inside, with one beta an image."""
    images, masks = batch(anomalies.perlin)
    for sample, mask in zip(images, masks, strict=True):
        if mask.sum() < 30:
            continue
        # The texture is grey: channel differences shrink by beta alone.
        ours, base = sample[mask > 0], np.asarray(image())[mask > 0]
        beta = np.sum((ours[:, 0] - ours[:, 1]) * (base[:, 0] - base[:, 1])) / np.sum(
            (base[:, 0] - base[:, 1]) ** 2
        )
        assert -1e-4 <= beta <= 0.8001
        texture = (ours - beta * base) / (1 - beta)
        np.testing.assert_allclose(texture[:, 0], texture[:, 2], atol=1e-3)
        # noise / 2 + 1/4 where the noise exceeds a half.
        assert texture.min() >= 0.4999


@pytest.mark.parametrize("unchanged", [0.5, 1.0])
def test_perlin_leaves_that_share_unchanged(unchanged):
    _, masks = perlin(unchanged=unchanged)
    empty = (masks.sum((1, 2)) == 0).mean()
    # Noise that never exceeds a half leaves a mask empty, too.
    assert unchanged - 0.15 <= empty <= min(unchanged + 0.3, 1)
    assert (empty == 1) == (unchanged == 1)


def test_perlins_constants():
    keys = jax.random.split(jax.random.key(0), 16)
    share = [perlin(threshold=t, unchanged=0.0)[1].mean() for t in (3.0, 0.5, 0.2)]
    assert share[0] == 0 < share[1] < share[2]

    @functools.partial(jax.jit, static_argnames="lattices")
    def noise(lattices=6, rotation=90.0):
        options = dict(lattices=lattices, rotation=rotation)
        return jax.vmap(
            lambda key: anomalies.turned_perlin_noise(key, (SIDE, SIDE), **options)
        )(keys)

    # A turned lattice leaves pixels out, which are zero; a lattice of one cell that is
    # not turned does not, and is smooth: no pixel is far from the next.
    one, turned, fine = (
        np.asarray(noise(lattices=lattices, rotation=rotation))
        for lattices, rotation in ((1, 0.0), (1, 90.0), (6, 0.0))
    )
    assert (one[:, 1:, 1:] == 0).mean() < 0.01 < (turned == 0).mean()
    steps = [np.abs(np.diff(x, axis=1)).max() for x in (one, fine)]
    assert steps[0] < 4 / SIDE < steps[1]


def test_perlin_can_turn_the_image_itself():
    images, masks = draw(
        jax.random.key(0), image(), None, generator=anomalies.perlin,
        static=(("unchanged", 1.0), ("rotate_image", 1.0)),
    )  # fmt: skip
    assert masks.max() == 0
    assert (np.abs(images - image()).max((1, 2, 3)) > 0.1).mean() > 0.9


def test_textures_vary_and_stay_in_range():
    picture = np.full((24, 24, 3), 0.37, np.float32)
    keys = jax.random.split(jax.random.key(0), 128)
    draw = jax.vmap(lambda key: anomalies.vary_texture(key, picture))
    varied = np.asarray(jax.jit(draw)(keys))
    assert varied.min() >= 0 and varied.max() <= 1
    unlike = np.abs(varied[:, 12, 12] - 0.37).max(-1) > 1e-6
    # Nothing moves a flat grey in five of the ten; at least one other is mostly drawn.
    assert 0.6 < unlike.mean() < 1


def test_how_a_texture_varies_is_up_to_its_bounds():
    """All ten changes, each as it does nothing; but inversion and equalisation."""
    picture = (np.floor(image() * 254) + 0.25) / 255  # away from all rounding
    still = dict(
        gamma=(1, 1), gain=(1, 1), offset=(0, 0), sharpness=(1, 1), hue=(0, 0),
        saturation=(0, 0), solarise=(256, 256), bits=(8, 8), cutoff=(0, 0), rotation=0,
    )  # fmt: skip

    @jax.jit
    def vary(changes):
        varied = anomalies.vary_texture(
            jax.random.key(0), picture, changes=changes, **still
        )
        kept = colour.posterise(picture, 8)
        return varied, colour.equalise(colour.autocontrast(1 - kept, 0.0))

    np.testing.assert_array_equal(vary(0)[0], picture)
    np.testing.assert_allclose(*vary(10), atol=1e-5)


def test_patch_area_and_aspect_are_in_the_bounds():
    _, masks = batch(anomalies.cutpaste_patch)
    for mask in masks:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        # Sides are whole pixels: half a pixel each way.
        assert (rows - 0.5) * (columns - 0.5) <= 0.15 * SIDE**2
        assert (rows + 0.5) * (columns + 0.5) >= 0.02 * SIDE**2
        assert 0.3 * (rows - 0.5) <= columns + 0.5
        assert 0.3 * (columns - 0.5) <= rows + 0.5
    # Everywhere, up to all four borders.
    assert masks[:, [0, -1]].any() and masks[:, :, [0, -1]].any()
    assert masks.any(0).mean() > 0.8


def test_patch_is_a_copy_from_elsewhere_in_the_image():
    base = np.arange(SIDE * SIDE * 3.0, dtype=np.float32).reshape(SIDE, SIDE, 3)
    base /= SIDE * SIDE * 3
    out, mask = alone(anomalies.cutpaste_patch, jax.random.key(4), base, jitter=0.0)
    index = np.rint(np.asarray(out)[..., 0] * SIDE * SIDE).astype(int)
    where = np.argwhere(np.asarray(mask) > 0)
    source = np.stack(np.unravel_index(index[tuple(where.T)], (SIDE, SIDE)), -1)
    shift = source - where
    assert (shift == shift[0]).all() and np.abs(shift[0]).max() > 0


def test_scar_is_thin_and_stays_inside():
    _, masks = batch(anomalies.cutpaste_scar)
    area = masks.sum((1, 2))
    assert area.min() >= 2 * 10 * 0.5 and area.max() <= 17 * 26
    for mask in masks:
        rows, columns = np.nonzero(mask)
        # Nothing is cut off by the border: the outermost lines may only be touched.
        assert rows.size and mask[0].sum() <= 17 and mask[:, 0].sum() <= 26
        covariance = np.cov(np.stack([rows, columns]))
        assert np.linalg.eigvalsh(covariance)[1] <= 26**2 / 12 * 1.1


def test_union_holds_both_kinds():
    _, masks = batch(anomalies.cutpaste)
    rectangles = [m.sum() == m.any(1).sum() * m.any(0).sum() for m in masks]
    assert 16 < np.sum(rectangles) < 48


@pytest.mark.parametrize("literal", [False, True])
def test_smooth_blend_is_its_formula(literal):
    """On one colour, with the patch of another one: alpha is all that shows.

    3 pixels of 224 are 0.64 of 48, and the Gaussian reaches 2 pixels far.
    """
    flat = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    out, mask = alone(
        anomalies.smooth_blend, jax.random.key(2), flat,
        area=(0.1, 0.1), jitter=(0.4, 0, 0, 0), blur=(3.0, 3.0), literal=literal,
    )  # fmt: skip
    out, mask = np.asarray(out), np.asarray(mask)
    sigma = 3 * SIDE / 224
    alpha = scipy.ndimage.gaussian_filter(mask, sigma, mode="nearest", radius=2)
    assert 0 < alpha[mask == 0].max() < 0.5
    if not literal:
        np.testing.assert_array_equal(out[mask == 0], 0.5)
        alpha = alpha * mask
    colour_of = (out[mask > 0] - 0.5) / alpha[mask > 0, None] + 0.5
    np.testing.assert_allclose(colour_of, colour_of[0, 0], atol=1e-5)
    assert 0.3 <= colour_of[0, 0] <= 0.7 and abs(colour_of[0, 0] - 0.5) > 0.01
    want = 0.5 * (1 - alpha) + alpha * mask * colour_of[0, 0]
    np.testing.assert_allclose(out[..., 0], want, atol=1e-6)


def test_smooth_blend_shows_a_piece_of_the_image():
    """Deep inside, where alpha is 1: a copy from elsewhere."""
    y, x = np.mgrid[:SIDE, :SIDE] / np.float32(SIDE)
    ramp = np.stack([y, x, 0 * x], -1).astype(np.float32)
    out, mask = alone(
        anomalies.smooth_blend, jax.random.key(1), ramp,
        area=(0.15, 0.15), aspect=(1.0, 1.0), jitter=(0, 0, 0, 0), blur=(1, 1),
    )  # fmt: skip
    deep = scipy.ndimage.binary_erosion(np.asarray(mask), iterations=2)
    shift = np.rint((np.asarray(out) - np.asarray(ramp))[deep] * SIDE).astype(int)
    assert len(shift) > 100 and (shift == shift[0]).all() and np.abs(shift[0]).max() > 0


def test_nsa_draws_one_to_three_patches():
    _, one = nsa(half_offset=0.2, patches=1)
    _, three = nsa(half_offset=0.2)
    assert (one.sum((1, 2)) > 0).mean() > 0.9
    assert three.mean() > 1.2 * one.mean()


def test_nsas_constants():
    _, one = nsa(half_offset=0.2, patches=1)
    _, never = nsa(half_offset=0.2, further=0.0)
    np.testing.assert_array_equal(never, one)
    # Without spread every patch has the same sides, 0.2 of 48 pixels, and keeps them;
    # its border is the image's.
    fixed = dict(half_offset=0.1, half_scale=0.0, resize_deviation=0.0, patches=1)
    _, masks = nsa(**fixed)
    assert 0 < masks.any(2).sum(1).max() <= 10 - 2
    _, blind = nsa(**fixed, visible=256.0)
    assert blind.max() == 0


def test_nsa_keeps_whole_sides_within_the_bounds():
    """Half sides in the source, but whole sides where they land."""
    bounds = ("half_height", (0.2, 0.25)), ("half_width", (0.2, 0.4))
    _, masks = nsa(static=bounds, patches=1)
    assert 8 <= masks.any(2).sum(1).max() <= 0.25 * SIDE == 12
    assert 12 < masks.any(1).sum(1).max() <= round(0.4 * SIDE) == 19


def test_nsa_of_the_image_itself_at_its_own_scale_may_come_out_empty():
    flat = np.full((SIDE, SIDE, 3), 0.4, np.float32)
    out, mask = nsa(flat, flat)
    np.testing.assert_allclose(out, np.stack([flat] * 64), atol=1e-5)
    assert mask.sum() == 0


def objects(left, right):
    """A bright disc on black: [SIDE, SIDE, 3], and where it is."""
    y, x = np.mgrid[:SIDE, :SIDE]
    radius, centre = (right - left) / 2, (left + right) / 2
    disc = (y - SIDE / 2) ** 2 + (x - centre) ** 2 < radius**2
    shade = 0.5 + 0.3 * np.sin(y / 2) * np.cos(x / 3)
    return (disc[..., None] * shade[..., None]).repeat(3, -1).astype(np.float32), disc


BACKGROUND = ("background", (0, 20)), ("min_object", 0.7), ("min_overlap", 0.25)


def test_nsa_with_a_background_stays_on_the_object():
    picture, disc = objects(SIDE // 5, 4 * SIDE // 5)
    _, masks = nsa(picture, picture[::-1], 5, BACKGROUND)
    assert masks.any((1, 2)).mean() > 0.5  # a place is found for most
    # Of the patch's object at least a quarter lies on the image's; without the rule
    # some lie wholly beside it.
    _, free = nsa(picture, picture[::-1], 5)

    def least_share_on_the_object(masks):
        masks = masks[masks.any((1, 2))]
        return ((masks * disc[None]).sum((1, 2)) / masks.sum((1, 2))).min()

    assert least_share_on_the_object(masks) > 0.2
    assert least_share_on_the_object(free) < 0.2


def test_nsa_leaves_an_image_without_an_object_as_it_is():
    black = np.zeros((SIDE, SIDE, 3), np.float32)
    picture, _ = objects(SIDE // 5, 4 * SIDE // 5)
    for image, source in ((black, picture), (picture, black)):
        key = jax.random.key(0)
        out, mask = alone(anomalies.nsa, key, image, source, background=(0, 20))
        np.testing.assert_array_equal(out, image)
        assert mask.sum() == 0
