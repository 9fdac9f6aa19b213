"""Natural synthetic anomalies (NSA): random seamless patches of another image.

References:
  Schlüter et al., Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and
  Localization, ECCV 2022 (arXiv:2109.15222), section 3; the constants are those of the
  authors' code.
"""

import jax
import jax.numpy as jnp

from jaxad.augment import geometry
from jaxad.augment.poisson import seamless_clone


def nsa(
    key: jax.Array,
    image: jax.Array,
    source: jax.Array,
    *,
    half_height: tuple[float, float] = (0.03, 0.4),
    half_width: tuple[float, float] = (0.03, 0.4),
    half_offset: float = 0.03,
    half_scale: float = 0.05,
    resize: tuple[float, float] = (0.7, 1.3),
    resize_deviation: float = 0.5,
    patches: int = 3,
    further: float = 0.5,
    visible: float = 1.0,
    median: int = 5,
    background: tuple[float, ...] = (),
    object_median: int = 7,
    min_object: float = 0.7,
    min_overlap: float = 0.25,
) -> tuple[jax.Array, jax.Array]:
    """Rectangles of another normal image, resized and seamlessly cloned.

    A half side is `half_offset + Gamma(2, half_scale)` of the image's, clipped to its
    bounds; what falls outside the source is cut off. A patch is resized by
    N(1, resize_deviation) clipped to `resize`, and then its sides, as in the authors'
    code, to the same bounds. One patch is certain. The mask is where the intensity
    changed visibly, after a median.

    With a `background`, a pixel belongs to an object where its intensity is farther
    from the background's than a tolerance (after a median). A patch then comes from
    where enough of it is object, goes to where objects overlap, and the mask is empty
    where both the image and the patch are background. After 200 places in vain the
    patch is left out.

    Args:
      key: random key.
      image: [H, W, 3].
      source: [H, W, 3], where the patches come from.
      half_height, half_width: bounds of the half sides in the source, and of the whole
        sides in the image, as shares of the image's.
      half_offset, half_scale: of the half sides, as shares of the image's.
      resize: bounds of the factor.
      resize_deviation: of the factor, before it is clipped.
      patches: at most so many.
      further: probability of each patch after the first.
      visible: a change of the intensity by more than this, in grey levels of 255.
      median: side of the squares over which the mask's median goes, odd.
      background: its brightness and the tolerance, in grey levels of 255; () is none.
      object_median: as `median`, for where objects are.
      min_object: a patch has a larger share of object than this.
      min_overlap: of the patch's object a larger share than this falls on the image's.

    Returns:
      Image [H, W, 3], clipped to [0, 1], and mask [H, W].
    """
    sides = image.shape[:2]
    bounds = (half_height, half_width)
    least, limit = (
        tuple(
            min(side, max(3, round(bound[i] * side)))
            for side, bound in zip(sides, bounds, strict=True)
        )
        for i in (0, 1)
    )

    if background:
        here, there = (
            _object_mask(x, *background, object_median) for x in (image, source)
        )

    def clone(number, state):
        blended, may_change = state
        keys = jax.random.split(jax.random.fold_in(key, number), 5)
        # Gamma(2) is the sum of two exponentials.
        gamma = half_scale * jax.random.exponential(keys[1], (2, 2)).sum(0)
        scale = 1 + resize_deviation * jax.random.normal(keys[2])
        scale = jnp.clip(scale, *resize)

        def cut(key):
            """Start and length in the source, and size in the image, an axis."""
            centre = jax.random.uniform(key, (2,))
            starts, lengths = [], []
            for axis, side in enumerate(sides):
                low, high = bounds[axis]
                middle = low + (1 - 2 * low) * centre[axis]
                half = jnp.clip(half_offset + gamma[axis], low, high)
                start = jnp.maximum(middle - half, 0) * side
                starts.append(start)
                lengths.append(jnp.minimum(middle + half, 1) * side - start)
            # The sides stay in proportion, but for the second bound that one meets.
            height, width = lengths
            new_height = jnp.clip(scale * height, least[0], limit[0])
            new_width = jnp.clip(new_height * width / height, least[1], limit[1])
            new_height = jnp.clip(new_width * height / width, least[0], limit[0])
            sizes = [jnp.round(x).astype(jnp.int32) for x in (new_height, new_width)]
            return starts, lengths, sizes

        def moved(picture, corner, starts, lengths, sizes):
            """The picture where each pixel of the image finds its source's."""
            rows, columns = (
                starts[axis]
                + (jnp.arange(side) - corner[axis] + 0.5)
                * (lengths[axis] / sizes[axis])
                - 0.5  # half-pixel centres
                for axis, side in enumerate(sides)
            )
            return geometry.sample_grid(picture, rows, columns)

        def covered(starts, lengths, sizes):
            return _share(there, _inside(sides, starts, lengths)) > min_object

        def overlapping(corner, patch):
            """Whether the objects overlap, and where either of them is."""
            pasted = moved(there[..., None], corner, *patch)[..., 0] > 0.5
            pasted &= _inside(sides, corner, patch[2])
            return _share(here, pasted) > min_overlap, pasted | (here > 0)

        used = (number == 0) | jax.random.bernoulli(keys[4], further)
        if not background:
            patch = cut(keys[0])
            corner = geometry.random_corner(keys[3], sides, *patch[2])
        else:
            patch, found = _first(keys[0], cut, lambda patch: covered(*patch))
            used &= found
            corner, found = _first(
                keys[3],
                lambda key: geometry.random_corner(key, sides, *patch[2]),
                lambda corner: overlapping(corner, patch)[0],
            )
            used &= found
            inside = _inside(sides, corner, patch[2])
            objects = overlapping(corner, patch)[1] & inside
            may_change = jnp.where(used & inside, objects, may_change)
        cloned = seamless_clone(
            blended,
            moved(source, corner, *patch),
            *corner,
            *patch[2],
            max_size=limit,
        )
        return jnp.where(used, jnp.clip(cloned, 0, 1), blended), may_change

    anywhere = jnp.full(sides, not background)
    blended, may_change = jax.lax.fori_loop(0, patches, clone, (image, anywhere))
    changed = (jnp.abs(blended - image).mean(-1) > visible / 255) & may_change
    return blended, _median(changed.astype(image.dtype), median)


def _object_mask(image, brightness, tolerance, median):
    """1 where the mean intensity is not the background's: [H, W, 3] -> [H, W]."""
    apart = jnp.abs(255 * image.mean(-1) - brightness) > tolerance
    return _median(apart.astype(image.dtype), median)


def _inside(sides, corner, sizes):
    """Where pixel centres lie in a rectangle, bool [H, W]."""
    rows, columns = (
        (jnp.arange(side) >= corner[axis] - 0.5)
        & (jnp.arange(side) < corner[axis] + sizes[axis] - 0.5)
        for axis, side in enumerate(sides)
    )
    return rows[:, None] & columns[None, :]


def _share(mask, where):
    """Share of the pixels `where` that the mask holds, 0 where there are none."""
    return (mask * where).sum() / jnp.maximum(where.sum(), 1)


def _first(key, draw, good, attempts: int = 200):
    """The first draw that is good, and whether there was one: ([...], bool)."""

    def goes_on(state):
        attempt, _, found = state
        return ~found & (attempt < attempts)

    def again(state):
        attempt, _, _ = state
        drawn = draw(jax.random.fold_in(key, attempt))
        return attempt + 1, drawn, good(drawn)

    start = draw(key)  # of the right shapes; not looked at
    _, drawn, found = jax.lax.while_loop(goes_on, again, (0, start, jnp.bool_(False)))
    return drawn, found


def _median(mask, side):
    """Median over squares of a mask [H, W] of zeros and ones; the border repeats."""
    padded = jnp.pad(mask, side // 2, mode="edge")
    rows = sum(padded[i : i + mask.shape[0]] for i in range(side))
    count = sum(rows[:, i : i + mask.shape[1]] for i in range(side))
    return (count > side * side // 2).astype(mask.dtype)
