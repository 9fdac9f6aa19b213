"""The constants of anomaly generators and views, as fields of a method's config.

The defaults are those of the functions, whose docstrings say more.
"""

from jaxad.fields import (
    NOT_NEGATIVE,
    ODD,
    RANGE,
    SHARE,
    Field,
    at_least,
    between,
    numbers_of,
    range_within,
)

# `anomalies.perlin`
PERLIN = dict(
    lattices=Field(6, "of the noise, with 1, 2, 4, ... cells a side", between(1, 10)),
    rotation=Field(90.0, "noise turns by at most so many degrees"),
    threshold=Field(0.5, "of the noise: a defect lies above it", NOT_NEGATIVE),
    # `anomalies.vary_texture`
    vary=dict(
        changes=Field(
            3, "how many of ten changes a texture goes through", between(0, 10)
        ),
        gamma=Field((0.5, 2.0), "exponent of a channel", RANGE),
        gain=Field((0.8, 1.2), "factor of the brightness", RANGE),
        offset=Field((-30.0, 30.0), "added to the brightness, of 255", RANGE),
        sharpness=Field(
            (0.0, 3.0), "factor of the sharpness; 1 changes nothing", RANGE
        ),
        hue=Field((-50.0, 50.0), "added to the hue, of 255", RANGE),
        saturation=Field((-50.0, 50.0), "added to the saturation, of 255", RANGE),
        solarise=Field((32.0, 128.0), "brighter than this is inverted, of 255", RANGE),
        bits=Field((1, 8), "those that a channel keeps", range_within(1, 8)),
        cutoff=Field((0.0, 0.2), "share that autocontrast cuts off", RANGE),
        rotation=Field(45.0, "a texture turns by at most so many degrees"),
    ),
    max_blend=Field(0.8, "largest share of the image that shines through", SHARE),
    unchanged=Field(0.5, "probability that an image stays as it is", SHARE),
    rotate_image=Field(0.0, "of turning an image first; 0.3 in DRAEM", SHARE),
)

# `anomalies.cutpaste`
CUTPASTE = dict(
    jitter=Field(0.1, "strength of the colour jitter on what is pasted", NOT_NEGATIVE),
    patch=dict(
        area=Field((0.02, 0.15), "a patch's share of the image", RANGE),
        aspect=Field((0.3, 1 / 0.3), "a patch's width over its height", RANGE),
    ),
    scar=dict(
        width=Field((2.0, 16.0), "a scar's width in pixels", RANGE),
        height=Field((10.0, 25.0), "a scar's height in pixels", RANGE),
        rotation=Field(45.0, "a scar turns by at most so many degrees"),
    ),
)

# `cutpaste.smooth_blend`
JITTER = numbers_of(
    "four numbers of 0 or more: brightness, contrast, saturation, hue",
    lambda x: x >= 0,
    4,
)
SMOOTH_BLEND = dict(
    area=Field((0.02, 0.15), "the patch's share of the image (ours)", RANGE),
    aspect=Field((0.3, 1 / 0.3), "the patch's width over its height (ours)", RANGE),
    jitter=Field((0.4, 0.4, 0.4, 0.1), "of the patch's colours (ours)", JITTER),
    blur=Field(
        (2.0, 6.0),
        "deviation of the Gaussian over the patch's mask, in pixels of an image of "
        "224, in proportion in others (ours)",
        RANGE,
    ),
    literal=Field(
        False,
        "the formula as written, which draws a dark ring around the patch; else "
        "nothing outside the patch changes (ours)",
    ),
)

# `nsa.nsa`
NSA = dict(
    half_height=Field(
        (0.03, 0.4), "half a patch's height, a share of the image's", RANGE
    ),
    half_width=Field(
        (0.03, 0.4), "half a patch's width, a share of the image's", RANGE
    ),
    half_offset=Field(0.03, "a half side is this + Gamma(2, half_scale)", NOT_NEGATIVE),
    half_scale=Field(0.05, "scale of that Gamma distribution", NOT_NEGATIVE),
    resize=Field((0.7, 1.3), "factor by which a patch is resized", RANGE),
    resize_deviation=Field(0.5, "of that factor, before it is clipped", NOT_NEGATIVE),
    patches=Field(3, "at most so many an image", at_least(1)),
    further=Field(0.5, "probability of each patch after the first", SHARE),
    visible=Field(1.0, "a change by more than this is a defect, of 255", NOT_NEGATIVE),
    median=Field(5, "side of the squares of the mask's median", ODD),
    background=Field(
        (),
        "brightness and tolerance, of 255, of the background that objects lie on, "
        "(200, 60) or (20, 20) for eight objects of MVTec AD; () is none",
        numbers_of("a brightness and a tolerance, or ()", lambda x: x == x, 0, 2),
    ),
    object_median=Field(7, "side of the squares of the objects' median", ODD),
    min_object=Field(0.7, "a patch has more than this share of object", SHARE),
    min_overlap=Field(0.25, "share of a patch's object that falls on an object", SHARE),
)

# `views.weak_view`
WEAK_VIEW = dict(
    scale=Field((0.8, 1.0), "a crop's share of the area (ours)", RANGE),
    ratio=Field((3 / 4, 4 / 3), "a crop's width over its height (ours)", RANGE),
    jitter=Field(0.1, "strength of the colour jitter (ours)", NOT_NEGATIVE),
    flip=Field(False, "mirror half of the views: only what is symmetric (ours)"),
)


def global_view(scale, ratio, jitter, grey, blur, who, jittered=0.8, blurred=0.5):
    """Of `views.global_view`; `who` says where the defaults are from, if it is us."""
    who = who and f" ({who})"
    return dict(
        scale=Field(scale, f"a crop's share of the area{who}", RANGE),
        ratio=Field(ratio, f"a crop's width over its height{who}", RANGE),
        jitter=Field(jitter, f"strength of the colour jitter{who}", JITTER),
        jittered=Field(jittered, f"how probable the jitter is{who}", SHARE),
        grey=Field(grey, f"how probable a view without colours is{who}", SHARE),
        blur=Field(
            blur,
            "deviation of the blur, in pixels of an image of 224, in proportion in "
            f"others{who}",
            RANGE,
        ),
        blurred=Field(blurred, f"how probable the blur is{who}", SHARE),
        flipped=Field(0.5, f"how probable a mirrored view is{who}", SHARE),
    )


STRONG_VIEW = global_view(
    (0.2, 1.0), (3 / 4, 4 / 3), (0.4, 0.4, 0.4, 0.1), 0.2, (0.1, 2.0), ""
)
WEAK_GLOBAL_VIEW = global_view(
    (0.9, 1.0), (0.95, 1.05), (0.1, 0.1, 0.1, 0.02), 0.0, (0.1, 0.5), "ours"
)
