"""The files in deploy/ are what Ray and KubeRay take, and what is wrong in them would be noticed."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import typer.main
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

import led_agent
from led_agent.cli import app

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "deploy" / "cluster.yaml"
RAYJOB = ROOT / "deploy" / "rayjob.yaml"
RAY_SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
KUBERAY_SCHEMA = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
GONE = "(gone)"  # in place of a value: the field is not there; its name is the same in each process of tests
HEAD = ("spec", "rayClusterSpec", "headGroupSpec")
WORKER = ("spec", "rayClusterSpec", "workerGroupSpecs", 0)


def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def documents() -> dict[str, dict[str, Any]]:
    """What rayjob.yaml holds, by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(RAYJOB.read_text())}


def changed(manifest: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy with this value at this place."""
    manifest = copy.deepcopy(manifest)
    place: Any = manifest
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return manifest


def check_cluster(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it asks the provider for anything; the file by itself first, without Ray's defaults."""
    jsonschema.validate(config, RAY_SCHEMA)
    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


def check_kubernetes(document: dict[str, Any]) -> None:
    kind = {"RayJob": "rayJob", "Pod": "pod", "PersistentVolumeClaim": "claim"}[document["kind"]]
    jsonschema.validate(document, {"$defs": KUBERAY_SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"})


def led_agent_commands(text: str) -> Iterator[list[str]]:
    """The arguments of each led-agent command in a shell's line, up to what the shell makes of it."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[str] | None = None
    for word in words:
        if found is not None and set(word) <= set("|&;()<>"):
            yield found
            found = None
        elif found is not None:
            found.append(word)
        elif word == "led-agent":
            found = []
    if found is not None:
        yield found


def entrypoints() -> dict[str, list[str]]:
    """The one command of each file: of cluster.yaml, that in the comment which says how it is used."""
    quoted = re.findall(r"^#.*'(led-agent .*)'$", CLUSTER.read_text(), re.MULTILINE)
    lines = {"cluster.yaml": "\n".join(quoted), "rayjob.yaml": documents()["RayJob"]["spec"]["entrypoint"]}
    commands = {name: list(led_agent_commands(line)) for name, line in lines.items()}
    assert {name: len(found) for name, found in commands.items()} == {"cluster.yaml": 1, "rayjob.yaml": 1}
    return {name: found[0] for name, found in commands.items()}


def unknown_options(arguments: list[str]) -> list[str]:
    """Those that the command line does not have: the first argument names the command."""
    command = typer.main.get_command(app).commands[arguments[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [argument.split("=")[0] for argument in arguments[1:] if re.match("--?[a-zA-Z]", argument)]
    return [option for option in given if option not in known]


def test_ray_takes_the_cluster():
    whole = check_cluster(cluster())
    types = whole["available_node_types"]
    assert types["head"]["max_workers"] == 0
    assert types["gpu-worker"]["min_workers"] == 0
    assert types["gpu-worker"]["resources"]["GPU"] == 1
    assert any("led_agent" in command for command in whole["worker_setup_commands"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idle_timeout_minute",), 5),
        (("idle_timeout_minutes",), "five"),
        (("provider",), GONE),
        (("provider", "type"), GONE),
        (("auth", "ssh_usr"), "ubuntu"),
        (("docker", "images"), "rayproject/ray"),
        (("docker", "container_name"), GONE),
        (("setup_commands",), "pip install led-agent"),
        (("head_node_type",), "heads"),
        (("available_node_types", "gpu-worker", "resource"), {"GPU": 1}),
        (("available_node_types", "gpu-worker", "resources"), GONE),
        (("available_node_types", "gpu-worker", "resources", "GPU"), "1"),
        (("available_node_types", "gpu-worker", "min_workers"), 9),  # more than max_workers
        (("available_node_types", "gpu-worker", "node_config"), GONE),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_cluster_is_refused(path: tuple[str, ...], value: Any):
    # Whichever of the three it is: the schema's, Ray's own complaint, or its assertion.
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        check_cluster(changed(cluster(), path, value))


def test_kuberay_takes_the_job_and_kubernetes_the_rest():
    jsonschema.Draft202012Validator.check_schema(KUBERAY_SCHEMA)
    found = documents()
    assert list(found) == ["PersistentVolumeClaim", "Pod", "RayJob"]
    for document in found.values():
        check_kubernetes(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "ray.io/v1alpha1"),
        (("metadata", "name"), "Led_Agent"),
        (("metadata", "name"), "l" * 48),
        (("spec", "entryPoint"), "led-agent"),
        (("spec", "submissionMode"), "HttpMode"),
        (("spec", "backoffLimit"), "3"),
        (("spec", "backoffLimit"), -1),
        (("spec", "shutdownAfterJobFinishes"), "yes"),
        (("spec", "runtimeEnvYAML"), {"pip": []}),
        (("spec", "rayClusterSpec", "autoscaling"), True),
        (("spec", "rayClusterSpec", "enableInTreeAutoscaling"), "true"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "autoscalerOptions", "version"), "v3"),
        (("spec", "rayClusterSpec", "autoscalerOptions", "idleTimeoutMinutes"), 5),
        (HEAD, GONE),
        ((*HEAD, "rayStartParams"), GONE),
        ((*HEAD, "rayStartParams", "num-cpus"), 0),  # a number where KubeRay wants a string
        ((*HEAD, "template"), GONE),
        ((*WORKER, "groupName"), GONE),
        ((*WORKER, "maxReplicas"), GONE),
        ((*WORKER, "minReplica"), 0),
        ((*WORKER, "template", "spec", "containers"), []),
        ((*WORKER, "template", "spec", "containers", 0, "image"), GONE),
        ((*WORKER, "template", "spec", "containers", 0, "volumeMount"), []),
        ((*WORKER, "template", "spec", "containers", 0, "resources", "limits", "memory"), "24 GB"),
        ((*WORKER, "template", "spec", "tolerations", 0, "effect"), "NoSchedules"),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_job_is_refused(path: tuple[str | int, ...], value: Any):
    with pytest.raises(jsonschema.ValidationError):
        check_kubernetes(changed(documents()["RayJob"], path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "accessModes"), "ReadWriteMany"),
        (("spec", "accessModes"), GONE),
        (("spec", "resources", "requests", "storage"), "much"),
        (("spec", "storageClass"), "shared"),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_claim_is_refused(path: tuple[str, ...], value: Any):
    with pytest.raises(jsonschema.ValidationError):
        check_kubernetes(changed(documents()["PersistentVolumeClaim"], path, value))


def test_every_pod_has_limits_and_the_volume_of_the_run_folder():
    found = documents()
    ray_cluster = found["RayJob"]["spec"]["rayClusterSpec"]
    groups = [ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]]
    for spec in (found["Pod"]["spec"], *(group["template"]["spec"] for group in groups)):
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            mounts = {mount["mountPath"]: claims[mount["name"]] for mount in container["volumeMounts"]}
            assert mounts == {"/runs": found["PersistentVolumeClaim"]["metadata"]["name"]}
    command = entrypoints()["rayjob.yaml"]
    assert command[1].startswith("/runs/")
    assert command[command.index("--out") + 1].startswith("/runs/")


def test_the_job_ships_this_package():
    environment = yaml.safe_load(documents()["RayJob"]["spec"]["runtimeEnvYAML"])
    assert environment.keys() <= RuntimeEnv.known_fields
    wheel = f"led_agent-{led_agent.__version__}-py3-none-any.whl"
    assert RuntimeEnv(**environment)["pip"]["packages"] == [f"/runs/{wheel}"]
    assert any(command.endswith(f"/dist/{wheel}") for command in cluster()["setup_commands"])


def test_one_version_of_ray_and_of_python_is_everywhere():
    text = CLUSTER.read_text() + RAYJOB.read_text()
    images = set(re.findall(r"rayproject/ray:(\S+)-(?:cpu|gpu)", text))
    assert len(images) == 1
    [(ray_version, python)] = {tuple(image.split("-")) for image in images}
    assert set(re.findall(r"ray\[default\]==([^\s']+)|rayVersion: (\S+)", text)) == {
        (ray_version, ""),
        ("", ray_version),
    }
    assert tuple(map(int, ray_version.split("."))) >= (2, 60)  # as pyproject.toml asks
    assert int(python.removeprefix("py3")) >= 11


def test_an_option_that_is_not_there_is_found():
    assert unknown_options(["run", "problems.jsonl", "--out=runs/a", "-n", "8", "--seed", "-1"]) == []
    assert unknown_options(["run", "problems.jsonl", "--outs", "runs/a", "-z"]) == ["--outs", "-z"]


def test_a_command_ends_where_the_shell_goes_on():
    line = "cd /runs && led-agent run 'a b.jsonl' --out x || [ $? -eq 1 ]; led-agent show x"
    assert list(led_agent_commands(line)) == [["run", "a b.jsonl", "--out", "x"], ["show", "x"]]


def test_the_commands_are_ones_that_led_agent_takes():
    for name, arguments in entrypoints().items():
        assert unknown_options(arguments) == [], name
        command = typer.main.get_command(app).commands[arguments[0]]
        given = command.make_context(arguments[0], arguments[1:]).params
        assert given["cluster"] == "auto"
