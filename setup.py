"""What pyproject.toml cannot say: the wheel carries ``recipes/`` as ``posttrain/recipes/``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["posttrain*"]), "posttrain.recipes"],
    package_dir={"posttrain.recipes": "recipes"},
)
