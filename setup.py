"""What pyproject.toml cannot say: a wheel with prebuilt kernels is for one platform and any Python (tools/wheel.py)."""

import os

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

PLATFORM = os.environ.get("NEXTIFY_WHEEL_PLATFORM")


class Prebuilt(Distribution):
    def has_ext_modules(self) -> bool:
        return PLATFORM is not None


class AnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return super().get_tag() if PLATFORM is None else ("py3", "none", PLATFORM)


setup(distclass=Prebuilt, cmdclass={"bdist_wheel": AnyPython})
