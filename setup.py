"""The part in C; all else of the build is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "reflayer.linux._names",
            ["src/reflayer/linux/_names.c"],
            extra_compile_args=["-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,  # where it cannot be compiled Python does its work
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for 3.11 and later
)
