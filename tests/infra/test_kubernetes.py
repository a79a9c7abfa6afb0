"""The Kubernetes manifests: valid against the schemas of their kinds, and as closed as the README says."""

import copy
from typing import Any

import pytest
from rendering import rendered
from schemas import Refused, manifests, pod_specs, validate

PLATFORMS = ("overlays/dev", "overlays/gpu")
JOBS = ("jobs/dev", "jobs/gpu")
FILES = dict(manifests("base", "jobs/add", "monitoring"))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] == kind]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_valid_as_it_stands(name):
    validate(FILES[name])


@pytest.mark.parametrize("folder", ["base", *PLATFORMS, *JOBS, "monitoring"])
def test_every_rendered_object_is_valid_and_lies_in_the_namespace(folder):
    for item in rendered(folder):
        validate(item)
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "mcb"


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("RayCluster", ("spec", "enableInTreeAutoscalling"), True),
        ("RayCluster", ("spec", "authOptions", "mode"), "tokens"),
        (
            "RayCluster",
            ("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "imagePulPolicy"),
            "Always",
        ),
        ("RayCluster", ("spec", "workerGroupSpecs", 0, "maxReplicas"), "8"),
        ("RayJob", ("spec", "backofLimit"), 3),
        ("RayJob", ("spec", "submitterPodTemplate", "spec", "containers", 0, "resources", "limit"), {}),
        ("NetworkPolicy", ("spec", "podSelectors"), {}),
        ("StatefulSet", ("spec", "template", "spec", "containers", 0, "port"), []),
        ("Deployment", ("spec", "replicas"), "one"),
    ],
)
def test_a_misspelt_field_or_a_wrong_value_is_refused(kind, path, wrong):
    manifest = copy.deepcopy(next(item for item in FILES.values() if item["kind"] == kind))
    parent = manifest
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = wrong
    with pytest.raises(Refused, match=str(path[-1])):
        validate(manifest)


def test_a_missing_required_field_is_refused():
    manifest = copy.deepcopy(FILES["base/raycluster.yaml: RayCluster"])
    del manifest["spec"]["headGroupSpec"]
    with pytest.raises(Refused, match="headGroupSpec"):
        validate(manifest)


@pytest.mark.parametrize("folder", [*PLATFORMS, *JOBS])
def test_every_container_is_unprivileged_and_has_requests_and_limits(folder):
    """What the namespace's pod security level, restricted, asks for."""
    specs = [spec for item in rendered(folder) for spec in pod_specs(item)]
    assert len(specs) > 3
    for spec in specs:
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] > 0 and pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostNetwork" not in spec and not any("hostPath" in volume for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert ":" in container["image"] and not container["image"].endswith(":latest")


@pytest.mark.parametrize("folder", PLATFORMS)
def test_nothing_is_reachable_from_outside(folder):
    objects = rendered(folder)
    assert not of_kind(objects, "Ingress")
    assert {item["spec"].get("type", "ClusterIP") for item in of_kind(objects, "Service")} == {"ClusterIP"}
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not any({} in rule.get("from", [{}]) for spec in policies.values() for rule in spec.get("ingress", []))


@pytest.mark.parametrize("folder", PLATFORMS)
def test_every_server_of_the_platform_has_a_policy_that_names_its_port(folder):
    objects = rendered(folder)
    policies = of_kind(objects, "NetworkPolicy")
    for service in of_kind(objects, "Service"):
        (policy,) = (item for item in policies if item["metadata"]["name"] == service["metadata"]["name"])
        assert policy["spec"]["podSelector"] == {"matchLabels": service["spec"]["selector"]}
        ports = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert ports == {port["port"] for port in service["spec"]["ports"]}


def clusters(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item["spec"].get("rayClusterSpec", item["spec"]) for item in objects if item["kind"].startswith("Ray")]


@pytest.mark.parametrize("folder", [*PLATFORMS, *JOBS])
def test_clusters_ask_for_a_token_and_scale_by_demand(folder):
    """With what the operator refuses at run time, which no schema says: pods that restart under autoscaler v2."""
    for cluster in clusters(rendered(folder)):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
        assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        assert {group["template"]["spec"]["restartPolicy"] for group in groups} == {"Never"}
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("folder", PLATFORMS)
def test_the_standing_cluster_outlives_its_head(folder):
    (cluster,) = clusters(rendered(folder))
    fault_tolerance = cluster["gcsFaultToleranceOptions"]
    assert fault_tolerance["backend"] == "redis" and fault_tolerance["redisAddress"] == "redis:6379"
    assert fault_tolerance["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "password"}


@pytest.mark.parametrize(("folder", "platform"), list(zip(JOBS, PLATFORMS, strict=True)))
def test_jobs_retry_clean_up_and_bring_the_clusters_spec(folder, platform):
    (standing,) = clusters(rendered(platform))
    jobs = {item["metadata"]["name"]: item["spec"] for item in rendered(folder)}
    assert set(jobs) == {"train", "tune"}
    for job in jobs.values():
        assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"] and job["ttlSecondsAfterFinished"] > 0
        cluster = job["rayClusterSpec"]
        for part in ("authOptions", "autoscalerOptions", "headGroupSpec", "rayVersion"):
            assert cluster[part] == standing[part]
        assert "gcsFaultToleranceOptions" not in cluster
        (submitter,) = job["submitterPodTemplate"]["spec"]["containers"]
        assert submitter["image"] == cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert jobs["train"]["rayClusterSpec"]["workerGroupSpecs"] == standing["workerGroupSpecs"]
    assert jobs["tune"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplicas"] > 0


def test_the_gpu_overlay_asks_for_gpus_and_for_the_image_that_can_use_them():
    for cluster in clusters(rendered("overlays/gpu") + rendered("jobs/gpu")):
        (group,) = cluster["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["image"].endswith("-cuda")


def test_monitors_select_pods_and_a_port_that_the_clusters_have():
    (cluster,) = clusters(rendered("base"))
    pods = {"head": cluster["headGroupSpec"], "worker": cluster["workerGroupSpecs"][0]}
    for monitor in rendered("monitoring"):
        kind = monitor["spec"]["selector"]["matchLabels"]["ray.io/node-type"]
        (container,) = pods.pop(kind)["template"]["spec"]["containers"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert {"name": endpoint["port"], "containerPort": 8080} in container["ports"]
    assert not pods
