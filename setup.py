"""What pyproject.toml cannot say: `configs/` lies beside the package, and goes with it.

So a wheel has no top-level package of a name that anybody may use.
"""

from setuptools import find_namespace_packages, setup

configs = {
    "jaxad.configs": "configs",
    "jaxad.configs.ablations": "configs/ablations",
}
setup(
    packages=find_namespace_packages(
        include=["jaxad*", "tfds_builders*"], exclude=["*.dummy_data*"]
    )
    + list(configs),
    package_dir=configs,
)
