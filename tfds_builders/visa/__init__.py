"""VisA: twelve objects under three protocols."""

from tfds_builders.visa.visa_dataset_builder import Builder as Builder
