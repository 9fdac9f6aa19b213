"""Image operations on device.

Every operation is a pure function of one float image [H, W, 3] in [0, 1], batched by
`jax.vmap`; a random one takes its `key` first, and options are keyword-only. Operations
do not clip, so that they compose, unless their docstring says so.
"""
