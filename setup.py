"""Ships configs/ inside the package: at the top level of site-packages it could be anybody's."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["spectral_jax*"]), "spectral_jax.configs"],
      package_dir={"spectral_jax.configs": "configs"})
