"""What pyproject.toml cannot say: a wheel with prebuilt kernels is for one platform and any Python (tools/wheel.py)."""

import os

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

PLATFORM = os.environ.get("NEXTIFY_WHEEL_PLATFORM")


class PlatformWheel(bdist_wheel):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", str(PLATFORM)


setup(cmdclass={"bdist_wheel": PlatformWheel} if PLATFORM else {})
