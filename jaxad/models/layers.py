"""Layers that the convolutional backbones share.

A `ConvNorm` is a convolution and the normalisation behind it as one layer, so that a
frozen backbone can carry the two as one: without batch statistics among its variables
(`jaxad.models.fold` takes them away) the layer is a convolution with a bias.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxad.models import winograd

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int = 1,
    padding: str | int = 0,
    groups: int = 1,
    frozen: bool = False,
) -> jax.Array:
    """Convolution of images [b, h, w, c] with a kernel [k, k, c / groups, d].

    Equal to `lax.conv_general_dilated` in every case, up to rounding; a 1x1 kernel is a
    matrix product, and other convolutions take the form that suits the platform.

    Args:
      strides: of both axes.
      padding: "SAME" as TensorFlow has it (the odd pixel goes below and right), or
        the number of zeros on every side.
      groups: of channels; as many as channels is a depthwise convolution.
      frozen: the kernel does not learn, so only the forward pass has to be fast.
    """
    size = kernel.shape[0]
    if size == 1 and groups == 1:
        return matmul(x[:, ::strides, ::strides, :], kernel[0, 0])
    if size == strides and padding == 0 and groups == 1:
        return matmul(_patches(x, size), kernel.reshape(-1, kernel.shape[-1]))
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    else:
        padding = lax.padtype_to_pads(
            x.shape[1:3], kernel.shape[:2], (strides, strides), padding
        )
    options = dict(strides=strides, padding=tuple(padding))
    if groups == x.shape[-1] == kernel.shape[-1]:
        # XLA's grouped convolution is 10 to 50 times slower than this on a CPU.
        return lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(depthwise_shifted, **options),
            default=functools.partial(depthwise_grouped, **options),
        )
    if groups > 1:
        return lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(grouped_merged, groups=groups, **options),
            default=functools.partial(_convolve, groups=groups, **options),
        )
    if frozen and size == 3 and strides == 1 and min(kernel.shape[2:]) >= 64:
        return lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(winograd.convolve, padding=options["padding"]),
            default=functools.partial(_convolve, groups=1, **options),
        )
    if min(_outputs(x, size, **options)) < size:
        # XLA on a CPU is 50 times slower than a matrix product at 2 x 2 pixels.
        return lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(unrolled, **options),
            default=functools.partial(_convolve, groups=1, **options),
        )
    return _convolve(x, kernel, groups=1, **options)


def unrolled(x, kernel, *, strides, padding):
    """Convolution as one matrix product with all that the kernel sees, side by side."""
    size, depth = kernel.shape[0], kernel.shape[-1]
    seen = [window for _, _, window in _windows(x, size, strides, padding)]
    return matmul(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, depth))


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Matrix product in the dtype of both, with sums in float32."""

    def flat(x, kernel):
        # For a bfloat16 result XLA on a CPU makes float32 matrices of both factors
        # first, and for the gradient of a kernel over several axes transposes `dy`.
        rows = x.reshape(-1, x.shape[-1])
        product = jnp.matmul(rows, kernel, preferred_element_type=jnp.float32)
        return product.astype(x.dtype).reshape(*x.shape[:-1], kernel.shape[-1])

    return lax.platform_dependent(x, kernel, cpu=flat, default=jnp.matmul)


def depthwise_shifted(x, kernel, *, strides, padding):
    """Depthwise convolution as the sum of one shifted product a kernel entry.

    Rows and columns of the kernel that meet nothing but padding are left out: of 5 x 5
    entries over 2 x 2 pixels these are 16, and of the padded images eight ninths.
    """
    size = len(kernel)
    axes = zip(x.shape[1:3], _outputs(x, size, strides, padding), padding, strict=True)
    meets = {
        i
        for n, count, (before, _) in axes
        for start in range(-before, count * strides - before, strides)
        for i in range(max(0, -start), min(size, n - start))
    }
    low, high = min(meets, default=0), max(meets, default=size - 1)
    pads = tuple((before - low, after - size + 1 + high) for before, after in padding)
    return _shifted(x, kernel[low : high + 1, low : high + 1], strides, pads)


def _sum_shifts(x, kernel, strides, padding):
    total = None
    for i, j, window in _windows(x, kernel.shape[0], strides, padding):
        term = window * kernel[i, j, 0].reshape(1, 1, 1, -1)
        total = term if total is None else total + term
    return total


def _sum_shifts_forward(x, kernel, strides, padding):
    return _sum_shifts(x, kernel, strides, padding), (x, kernel)


def _sum_shifts_backward(strides, padding, saved, dy):
    # Loops, for as their input dy is computed once, and not again for every kernel
    # entry that meets it.
    x, kernel = saved
    dx = _spread(dy, kernel, x.shape[1:3], strides, padding)
    return dx, _kernel_gradient(x, dy, len(kernel), strides, padding)


def _kernel_gradient(x, dy, size, strides, padding):
    """The gradient of a depthwise kernel, [size, size, 1, c].

    A row of the result at a time: it and the rows of `x` that made it stay in a CPU's
    cache, and a column of kernel entries is one loop over whole vectors. Sums over a
    whole image take it two to five times as long.
    """
    batch, height, width, depth = dy.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    spans = [slice(j, j + (width - 1) * strides + 1, strides) for j in range(size)]

    def add(n, totals):
        image, row = n // height, n % height
        seen = lax.dynamic_slice(
            x, (image, row * strides, 0, 0), (1, size, *x.shape[2:])
        )[0]
        given = lax.dynamic_slice(dy, (image, row, 0, 0), (1, 1, width, depth))[0]
        return [
            total + seen[:, span] * given
            for total, span in zip(totals, spans, strict=True)
        ]

    start = [jnp.zeros((size, width, depth), dy.dtype) for _ in spans]
    totals = lax.fori_loop(0, batch * height, add, start)
    return jnp.stack([total.sum(1) for total in totals], axis=1)[:, :, None]


def _spread(dy, kernel, shape, strides, padding):
    """The gradient of images [b, h, w, c], (h, w) being `shape`, from `dy`.

    Pixels of one remainder by the stride have the same kernel entries in their sums,
    each times a window of `dy`; so no zeros are put between its rows to be multiplied.
    As many rows as the stride at a time, of all images: devices share those out.
    """
    phases, pads, counts = [], [], []
    for n, given, (before, _) in zip(shape, dy.shape[1:3], padding, strict=True):
        counts.append(-(-n // strides))
        starts = [
            [
                (i, (phase + before - i) // strides)
                for i in range((phase + before) % strides, len(kernel), strides)
            ]
            for phase in range(strides)
        ]
        low = max(-start for one in starts for _, start in one)
        high = max(start for one in starts for _, start in one) + counts[-1] - given
        low, high = max(low, 0), max(high, 0)
        pads.append((low, high))
        phases.append([[(i, start + low) for i, start in one] for one in starts])
    dy = jnp.pad(dy, ((0, 0), *pads, (0, 0)))
    (batch, _, across, depth), (height, width) = dy.shape, counts
    reach = 1 + max(start for one in phases[0] for _, start in one)
    nothing = jnp.zeros((batch, width, depth), dy.dtype)

    def of_phase(seen, rows, columns):
        terms = [
            seen[:, top, left : left + width] * kernel[i, j, 0][None, None]
            for i, top in rows
            for j, left in columns
        ]
        return sum(terms, start=nothing)

    def add(row, dx):
        seen = lax.dynamic_slice(dy, (0, row, 0, 0), (batch, reach, across, depth))
        found = jnp.stack(
            [
                jnp.stack([of_phase(seen, rows, one) for one in phases[1]], axis=2)
                for rows in phases[0]
            ],
            axis=1,
        ).reshape(batch, strides, width * strides, depth)
        return lax.dynamic_update_slice(dx, found, (0, row * strides, 0, 0))

    start = jnp.zeros((batch, height * strides, width * strides, depth), dy.dtype)
    dx = lax.fori_loop(0, height, add, start)
    return dx[:, : shape[0], : shape[1]]


_shifted = jax.custom_vjp(_sum_shifts, nondiff_argnums=(2, 3))
_shifted.defvjp(_sum_shifts_forward, _sum_shifts_backward)


def _outputs(x, size, strides, padding):
    """(height, width) of a convolution's result."""
    sides = zip(x.shape[1:3], padding, strict=True)
    return tuple((n + sum(more) - size) // strides + 1 for n, more in sides)


def _windows(x, size, strides, padding):
    """(i, j, what kernel entry (i, j) sees [b, h', w', c]) for every entry."""
    height, width = _outputs(x, size, strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + (height - 1) * strides + 1, strides)
            columns = slice(j, j + (width - 1) * strides + 1, strides)
            yield i, j, x[:, rows, columns]


def depthwise_grouped(x, kernel, *, strides, padding):
    """Depthwise convolution as XLA's grouped convolution."""
    return _convolve(x, kernel, strides=strides, padding=padding, groups=x.shape[-1])


def grouped_merged(x, kernel, *, strides, padding, groups):
    """Grouped convolution as dense ones, each over as many groups as fill 64 channels.

    A CPU is 2 to 3 times faster at the zeros of a block-diagonal kernel than at XLA's
    grouped convolution of narrow groups.
    """
    height, width, inputs, features = kernel.shape
    divisors = (n for n in range(1, groups + 1) if groups % n == 0)
    merged = max((n for n in divisors if n * inputs <= 64), default=1)
    count, outputs = groups // merged, features // groups
    blocks = kernel.reshape(height, width, inputs, count, merged, outputs)
    diagonal = jnp.eye(merged, dtype=kernel.dtype)
    kernels = jnp.einsum("hwigmo,nm->ghwnimo", blocks, diagonal).reshape(
        count, height, width, merged * inputs, merged * outputs
    )
    parts = [
        _convolve(part, kernels[i], strides=strides, padding=padding, groups=1)
        for i, part in enumerate(jnp.split(x, count, axis=-1))
    ]
    return jnp.concatenate(parts, axis=-1)


def _convolve(x, kernel, *, strides, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _patches(x, size):
    """[b, h, w, c] in squares that do not overlap, [b, h/size, w/size, size*size*c]."""
    b, h, w, c = x.shape
    h, w = h // size, w // size
    x = x[:, : h * size, : w * size].reshape(b, h, size, w, size, c)
    return x.swapaxes(2, 3).reshape(b, h, w, size * size * c)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum at stride 2, one pixel of padding on every side."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics.

    Training normalises with the batch's mean and biased variance, and moves the
    running mean and the running *unbiased* variance by `momentum`. Under `jit` a batch
    that is sharded over devices is normalised as one. Without batch statistics among
    its variables the layer is the affine map that a frozen network needs.

    Ioffe and Szegedy, Batch Normalization, ICML 2015 (arXiv:1502.03167), algorithm 1.

    Attributes:
      epsilon: added to the variance.
      momentum: share of the new batch in the running statistics.
      dtype: of the result; statistics are always float32.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if self.is_initializing() or self.has_variable("batch_stats", "mean"):
            mean, var = self._statistics(x, train)
            scale = scale * lax.rsqrt(var + self.epsilon)
            bias = bias - mean * scale
        elif train:
            raise ValueError("a folded backbone has no training mode")
        shape = (1,) * (x.ndim - 1) + (features,)
        y = x.astype(jnp.float32) * scale.reshape(shape) + bias.reshape(shape)
        return y.astype(self.dtype)

    def _statistics(self, x, train):
        features = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if not train:
            return mean.value, var.value
        axes = tuple(range(x.ndim - 1))
        shape = (1,) * (x.ndim - 1) + (features,)
        # Both moments about the running mean: devices then wait for each other once,
        # where a variance about the batch's own mean takes a second round, and they
        # lose no digits once it is near.
        about = mean.value
        centred = x.astype(jnp.float32) - about.reshape(shape)
        first = jnp.mean(centred, axes)
        second = jnp.mean(jnp.square(centred), axes)
        batch_mean = about + first
        batch_var = jnp.maximum(second - jnp.square(first), 0.0)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            n = x.size // features
            mean.value += self.momentum * (batch_mean - mean.value)
            var.value += self.momentum * (batch_var * n / max(n - 1, 1) - var.value)
        return batch_mean, batch_var


class Conv(nn.Module):
    """A convolution computed in `dtype`; see `conv`."""

    features: int
    size: int = 1
    strides: int = 1
    padding: str | int = 0
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = _KAIMING

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = conv(
            x.astype(self.dtype), kernel, strides=self.strides, padding=self.padding
        )
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class ConvNorm(nn.Module):
    """A convolution without a bias, and the batch normalisation of its result.

    Attributes:
      features: output channels.
      size, strides, padding, groups: see `conv`.
      epsilon, momentum: see `BatchNorm`.
      dtype: of the convolution; parameters are float32.
    """

    features: int
    size: int = 1
    strides: int = 1
    padding: str | int = 0
    groups: int = 1
    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        folded = not (self.is_initializing() or self.has_variable("params", "norm"))
        x = conv(
            x.astype(self.dtype),
            self.param("kernel", _KAIMING, shape).astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            frozen=folded,
        )
        if not folded:
            norm = BatchNorm(self.epsilon, self.momentum, self.dtype, name="norm")
            return norm(x, train=train)
        if train:
            raise ValueError("a folded backbone has no training mode")
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class Dense(nn.Module):
    """A fully connected layer, `x @ kernel + bias`, computed in `dtype`."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        bias = bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return matmul(x.astype(self.dtype), kernel.astype(self.dtype)) + bias
