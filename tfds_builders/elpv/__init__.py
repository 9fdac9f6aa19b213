"""ELPV: electroluminescence images of solar cells."""

from tfds_builders.elpv.elpv_dataset_builder import Builder as Builder
