"""BTAD: three industrial products."""

from tfds_builders.btad.btad_dataset_builder import Builder as Builder
