"""Every test sees eight CPU devices, and silent rank promotion is an error."""

import os

# TensorFlow is a test-only dependency and logs to stderr at import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
from absl import flags

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# grain reads absl flags when it starts threads; under pytest nobody parses them.
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
