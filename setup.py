"""Where the packages are; everything else is in pyproject.toml.

The wheel installs score_sde alone: experiments and configs of a checkout are inside.
"""

from setuptools import find_packages, setup

INSIDE = {"score_sde.experiments": "experiments", "score_sde.configs": "configs"}

setup(
    packages=[*find_packages(include=["score_sde", "score_sde.*"]), *INSIDE],
    package_dir={"score_sde": "score_sde", **INSIDE},
)
