"""The part in C; all else of the build is in pyproject.toml."""

from tempfile import TemporaryDirectory

from setuptools import Extension, setup

# setuptools, since it goes on without a compiler ("optional") and brings no programs of its own:
# scikit-build-core needs CMake, meson-python Ninja, and that at each import of an editable install.
with TemporaryDirectory() as build:
    setup(
        ext_modules=[
            Extension(
                "reflayer.linux._names",
                ["src/reflayer/linux/_names.c", "src/reflayer/linux/clone.c"],
                depends=["src/reflayer/linux/names.h"],
                extra_compile_args=["-Wall", "-Wextra"],
                py_limited_api=True,
                optional=True,  # where it cannot be compiled Python does its work
            )
        ],
        options={
            "bdist_wheel": {"py_limited_api": "cp311"},  # one wheel for 3.11 and later
            "build": {"build_base": build},  # one in the project keeps modules that are gone by now
        },
    )
