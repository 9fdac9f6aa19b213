"""MVTec AD: industrial objects and textures."""

from tfds_builders.mvtec_ad.mvtec_ad_dataset_builder import Builder as Builder
