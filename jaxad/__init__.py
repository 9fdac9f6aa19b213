"""Anomaly detection in product images with JAX."""

__version__ = "0.1.0"
