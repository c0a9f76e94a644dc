"""The part in C, and what a wheel has beside the modules; pyproject.toml has the rest."""

import json
import os
import sys
import tomllib
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import NAMESPACE_URL, uuid5

from setuptools import Extension, setup

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before 70.1
    from wheel.bdist_wheel import bdist_wheel

PROJECT = Path(__file__).parent
sys.path.insert(0, str(PROJECT / "src"))

os.environ.setdefault("SOURCE_DATE_EPOCH", "1580601600")  # any, but always the same; as hatchling's
os.umask(0o022)


class Wheel(bdist_wheel):
    """A wheel with the manual, completions and a bill of materials: the same bytes each time."""

    def write_wheelfile(self, wheelfile_base, *arguments, **named):
        super().write_wheelfile(wheelfile_base, *arguments, **named)
        from reflayer.cli.manual import files

        share = Path(self.bdist_dir, self.data_dir, "data/share")
        for name, text in files().items():
            write(share / name, text)
        # PEP 770.
        write(Path(wheelfile_base, "sboms/reflayer.cdx.json"), self.bill_of_materials())
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)

    def bill_of_materials(self):
        """What is in the wheel and what it needs, as CycloneDX has it."""
        with open(PROJECT / "pyproject.toml", "rb") as file:
            project = tomllib.load(file)["project"]
        name, version = project["name"], project["version"]
        own = f"pkg:pypi/{name}@{version}"
        needed = [(one, "required") for one in project["dependencies"]]
        for extra in project["optional-dependencies"].values():
            needed += [(one, "optional") for one in extra if (one, "optional") not in needed]
        compiled = sorted(Path(self.bdist_dir).rglob("*.so"))
        components = [
            {
                "type": "file",
                "name": str(one.relative_to(self.bdist_dir)),
                "hashes": [{"alg": "SHA-256", "content": sha256(one.read_bytes()).hexdigest()}],
            }
            for one in compiled
        ]
        for requirement, scope in needed:
            library = requirement.split(";")[0].split("[")[0].split(">")[0].split("<")[0]
            components.append(
                {
                    "type": "library",
                    "bom-ref": f"pkg:pypi/{library}",
                    "name": library,
                    "purl": f"pkg:pypi/{library}",
                    "scope": scope,
                    "properties": [{"name": "requirement", "value": requirement}],
                }
            )
        bill = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, own)}",
            "version": 1,
            "metadata": {
                "component": {
                    "type": "application",
                    "bom-ref": own,
                    "name": name,
                    "version": version,
                    "purl": own,
                    "description": project["description"],
                    "licenses": [{"license": {"id": "Apache-2.0"}}],
                }
            },
            "components": components,
            "dependencies": [
                {
                    "ref": own,
                    "dependsOn": [one["bom-ref"] for one in components if "bom-ref" in one],
                }
            ],
        }
        return json.dumps(bill, indent=1) + "\n"


def write(path, text):
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# setuptools, since it goes on without a compiler ("optional") and brings no programs of its own:
# scikit-build-core needs CMake, meson-python Ninja, and that at each import of an editable install.
with TemporaryDirectory() as build:
    setup(
        cmdclass={"bdist_wheel": Wheel},
        ext_modules=[
            Extension(
                "reflayer.linux._names",
                [f"src/reflayer/linux/{name}.c" for name in ("_names", "clone", "tar")],
                depends=["src/reflayer/linux/names.h"],
                extra_compile_args=["-Wall", "-Wextra", "-g0"],  # that has the folder's path in it
                py_limited_api=True,
                optional=True,  # where it cannot be compiled Python does its work
            )
        ],
        options={
            "bdist_wheel": {"py_limited_api": "cp311"},  # one wheel for 3.11 and later
            "build": {"build_base": build},  # one in the project keeps modules that are gone by now
            "egg_info": {"egg_base": build},  # in src it would be found as a second installation
        },
    )
