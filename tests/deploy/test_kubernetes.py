"""The manifests are what Kubernetes takes, and what they start is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from reflayer.cli.program import parser
from reflayer.plugins.containerd.config import HOME, SOCKET, containerd_toml

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy/kubernetes"
MANIFESTS = ("namespace.yaml", "runtimeclass.yaml", "daemonset.yaml")
OLDEST, NEWEST = "1.25", "1.33"


def loaded(name: str) -> Any:
    """A manifest."""
    return yaml.safe_load((DEPLOY / name).read_text())


def container() -> Any:
    """The snapshotter's container."""
    return loaded("daemonset.yaml")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_schema_takes_each_manifest(name: str, version: str) -> None:
    kubernetes_validate.validate(loaded(name), version, strict=True)


def test_the_schema_refuses_a_misspelt_field() -> None:
    manifest = loaded("daemonset.yaml")
    manifest["spec"]["template"]["spec"]["tolerance"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, NEWEST, strict=True)


def test_kustomization_names_each_manifest_and_the_image_that_runs() -> None:
    told = loaded("kustomization.yaml")
    assert sorted(told["resources"]) == sorted(MANIFESTS)
    assert sorted(told["resources"]) == sorted(
        path.name for path in DEPLOY.glob("*.yaml") if path.name != "kustomization.yaml"
    )
    assert [image["name"] for image in told["images"]] == [container()["image"]]


def test_the_container_serves_where_containerd_is_told_to_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["reflayer", "serve", *container()["args"]])
    arguments = parser().parse_args()
    assert arguments.services == ["containerd"]
    assert arguments.containerd_socket == SOCKET
    assert arguments.home == HOME
    assert arguments.metrics == ("0.0.0.0", container()["ports"][0]["containerPort"])


def test_each_folder_is_at_the_same_path_in_the_container_and_on_the_node() -> None:
    pod = loaded("daemonset.yaml")["spec"]["template"]["spec"]
    node = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    inside = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert inside == node
    assert all(
        any(path.startswith(f"{folder}/") for folder in node.values()) for path in (SOCKET, HOME)
    )


def test_the_runtime_class_goes_to_the_nodes_that_have_the_snapshotter() -> None:
    pod = loaded("daemonset.yaml")["spec"]["template"]["spec"]
    wanted = loaded("runtimeclass.yaml")["scheduling"]["nodeSelector"]
    assert wanted.items() <= pod["nodeSelector"].items()


def test_what_the_image_is_made_of_is_in_the_project() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    ours = [path for paths in copied for path in paths if not path.startswith(("--", "/"))]
    assert ours
    assert all((PROJECT / path).exists() for path in ours)


def test_the_configuration_is_what_the_command_prints() -> None:
    handler = loaded("runtimeclass.yaml")["handler"]
    printed = containerd_toml(SOCKET, HOME, 3, can=(), runtime=handler)
    assert (DEPLOY / "containerd.toml").read_text() == printed
