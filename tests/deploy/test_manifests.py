"""The Kubernetes manifests: their fields, and what platform teams ask of every pod."""

import copy
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from deploying import (
    DEPLOY,
    REPOSITORY,
    VALUES,
    environment,
    gibibytes,
    manifests,
    of_kind,
    pods,
    ray_clusters,
    ray_pods,
    written,
)
from manifest_schema import LIST, SOURCES, fields, listed, problems

from raid.config import load
from raid.methods.known import config_of

# What the values can be, beside what they are.
VARIANTS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "kueue": {"gang": "kueue"},
    "volcano": {"gang": "volcano", "storage": {**VALUES["storage"], "class": "shared-files"}},
    "s3": {"mlflow": {**VALUES["mlflow"], "artifacts": "s3://bucket/mlflow"}},
    "images in object storage": {"object_storage_secret": "raid-images"},
}
APIS = {
    "RayJob": "ray.io/v1",
    "RayCluster": "ray.io/v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
}
CORE = ("Namespace", "PersistentVolumeClaim", "Service")
OBJECTS = [
    (f"{file.parent.name}/{file.name} {d['kind']} {d['metadata']['name']}", d) for file, d in manifests()
]
EVERY = pytest.mark.parametrize("document", [d for _, d in OBJECTS], ids=[name for name, _ in OBJECTS])
CLUSTERS = pytest.mark.parametrize("name", ray_clusters())


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: written(tmp_path_factory.mktemp("deploy"), **changed) for name, changed in VARIANTS.items()}


def test_every_promised_object_is_there():
    assert set(of_kind("RayJob")) == {"rayjob_cpu", "rayjob_gpu"}
    assert set(of_kind("RayCluster")) == {"raycluster_cpu", "raycluster_gpu"}
    assert {document["kind"] for _, document in manifests()} == {*APIS, *CORE}
    assert len(OBJECTS) == 15


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_field_is_unknown_or_of_a_wrong_type(variants, variant, source):
    for file, document in manifests(variants[variant]):
        assert problems(document, source) == [], file
        assert document["apiVersion"] == APIS.get(document["kind"], "v1")


def test_the_list_has_the_fields_that_are_used_and_no_others(variants):
    used = {
        f"{document['kind']} {field}"
        for folder in variants.values()
        for _, document in manifests(folder)
        for field in fields(document)
    }
    assert sorted(used) == sorted(listed()), f"{LIST.name}: one line each, sorted"
    assert LIST.read_text().splitlines() == sorted(listed())


# Where in the object, and what stands there instead.
MISTAKES: dict[str, tuple[tuple[Any, ...], str, Any]] = {
    "shutdownAfterJobFinish": (("spec",), "shutdownAfterJobFinish", True),
    "minReplica": (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "minReplica", 1),
    "backoffLimit": (("spec",), "backoffLimit", "2"),
    "terminationGracePeriod": (
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"),
        "terminationGracePeriod",
        120,
    ),
    "secretKeyRef": (
        ("spec", "rayClusterSpec", "gcsFaultToleranceOptions", "redisPassword", "valueFrom", "secretKeyRef"),
        "secretName",
        "raid-redis",
    ),
    "num-cpus": (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(mistake, source):
    job = copy.deepcopy(of_kind("RayJob")["rayjob_cpu"])
    path, name, value = MISTAKES[mistake]
    place = job
    for part in path:
        place = place[part]
    place[name] = value
    (found,) = problems(job, source)
    assert name in found or ".*" in found  # of a map the list knows no names


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("Service", ("spec", "ports", 0), "targetport"),
        ("StatefulSet", ("spec", "template", "spec", "securityContext"), "runAsNonroot"),
        ("StatefulSet", ("spec", "volumeClaimTemplates", 0, "spec"), "accessMode"),
        ("Deployment", ("spec", "template", "spec", "containers", 0), "livenessprobe"),
        ("NetworkPolicy", ("spec", "ingress", 1, "from", 0), "namespaceSelectors"),
        ("PersistentVolumeClaim", ("spec",), "storageClass"),
    ],
)
def test_a_mistake_in_what_is_not_kuberay_s_is_found_too(kind, path, name, source):
    document = copy.deepcopy(next(d for _, d in manifests() if d["kind"] == kind))
    place: Any = document
    for part in path:
        place = place[part]
    place[name] = "x"
    assert len(problems(document, source)) == 1


@EVERY
def test_everything_is_in_the_namespace(document):
    names = document["metadata"]
    assert (names["name"] if document["kind"] == "Namespace" else names["namespace"]) == VALUES["namespace"]


@EVERY
def test_pods_are_of_no_root_have_limits_and_a_version(document):
    for pod in pods(document):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # a service's variables would be taken for MLflow's own
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind])
            assert re.fullmatch(r"[a-z0-9-]+:\d+\.\d+(\.\d+)?", container["image"])  # no host, no `latest`


@EVERY
def test_volumes_that_are_mounted_are_there(document):
    claimed = {each["metadata"]["name"] for each in document.get("spec", {}).get("volumeClaimTemplates", [])}
    for pod in pods(document):
        there = {volume["name"] for volume in pod.get("volumes", [])} | claimed
        mounted = {
            mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])
        }
        assert mounted == there


def references(value: Any) -> list[tuple[str, str]]:
    """Every (secret, key) that an object asks for."""
    if isinstance(value, dict):
        own = value.get("secretKeyRef")
        below = [found for each in value.values() for found in references(each)]
        return ([(own["name"], own["key"])] if own else []) + below
    return [found for each in value for found in references(each)] if isinstance(value, list) else []


def test_secrets_are_asked_for_by_reference_alone(variants):
    for folder in variants.values():
        for file in (file for file in folder.rglob("*") if file.is_file()):
            text = file.read_text()
            assert not re.search(r"kind: Secret|stringData", text), file
            assert not re.search(r"://[^/\s]*:(?!\$\()[^/\s@]*@", text), file
        for file, document in manifests(folder):
            for pod in pods(document):
                for container in pod["containers"]:
                    for name, value in environment(container).items():
                        assert value is None or not re.search("PASSWORD|TOKEN|SECRET|KEY", name), file


def test_the_keys_of_the_secrets_are_those_that_the_readme_makes(variants):
    readme = (DEPLOY / "README.md").read_text()
    made = set(re.findall(r"create secret generic (\S+) --from-literal=([a-z-]+)=", readme))
    asked = {found for _, document in manifests() for found in references(document)}
    assert asked == made
    s3 = {found for _, document in manifests(variants["s3"]) for found in references(document)} - asked
    assert {name for name, _ in s3} == {VALUES["mlflow"]["secret"]}
    assert all(f"`{key}`" in readme for _, key in s3)
    assert len(s3) == 3


def test_credentials_of_object_storage_are_in_every_ray_container_if_there_are_any(variants):
    for variant, expected in [("as they are", None), ("images in object storage", "raid-images")]:
        for cluster in ray_clusters(variants[variant]).values():
            for pod in ray_pods(cluster):
                for container in pod["containers"]:
                    sources = container.get("envFrom", [])
                    assert [source["secretRef"]["name"] for source in sources] == [expected] * bool(expected)


@CLUSTERS
def test_a_cluster_is_authenticated_fault_tolerant_and_its_head_has_no_worker(name):
    cluster = ray_clusters()[name]
    assert cluster["rayVersion"] == VALUES["ray_version"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["gcsFaultToleranceOptions"] == {
        "redisAddress": VALUES["redis"]["address"],
        "redisPassword": {
            "valueFrom": {"secretKeyRef": {"name": VALUES["redis"]["secret"], "key": "password"}}
        },
    }
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    server = of_kind("Deployment")["mlflow"]
    url = f"http://{server['metadata']['name']}:{server['spec']['template']['spec']['containers'][0]['ports'][0]['containerPort']}"
    assert environment(head)["MLFLOW_TRACKING_URI"] == url


@CLUSTERS
def test_nodes_have_shared_memory_for_the_object_store_and_the_storage_that_all_see(name):
    for pod in ray_pods(ray_clusters()[name]):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        shm = mounts["/dev/shm"]["emptyDir"]
        assert shm["medium"] == "Memory"
        memory = gibibytes(container["resources"]["limits"]["memory"])
        assert 0.3 * memory <= gibibytes(shm["sizeLimit"]) < memory
        claim = mounts[VALUES["storage"]["mount"]]["persistentVolumeClaim"]["claimName"]
        claims = {d["metadata"]["name"]: d for _, d in manifests() if d["kind"] == "PersistentVolumeClaim"}
        assert claims[claim]["spec"]["accessModes"] == ["ReadWriteMany"]
        assert "emptyDir" in mounts[VALUES["cache"]["mount"]]
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
def test_gpus_are_for_the_workers_of_the_gpu_pool(kind):
    for pool, gpus in (("cpu", 0), ("gpu", VALUES["pools"]["gpu"]["gpus"])):
        head, workers = ray_pods(ray_clusters()[f"{kind}_{pool}"])
        limits = workers["containers"][0]["resources"]["limits"]
        assert int(limits.get("nvidia.com/gpu", 0)) == gpus
        assert ("tolerations" in workers) == (gpus > 0)
        assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("pool", VALUES["pools"])
def test_a_job_s_run_fits_its_cluster_and_is_on_its_storage(pool):
    job = of_kind("RayJob")[f"rayjob_{pool}"]["spec"]
    python, module, raid, method, file, *overrides = shlex.split(job["entrypoint"])
    assert (python, module, raid) == ("python", "-m", "raid")
    assert overrides.pop() == "--resume"  # another attempt goes on
    file = REPOSITORY / Path(file).relative_to("/home/ray/raid")
    config = load(config_of(method), file, overrides)
    assert config.data.root.is_relative_to(VALUES["storage"]["mount"])
    assert config.run.folder.is_relative_to(VALUES["storage"]["mount"])
    assert config.data.cache_folder == Path(VALUES["cache"]["mount"])
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert config.run.workers * config.numerics.threads == group["replicas"] * int(limits["cpu"])
    gpus = int(limits.get("nvidia.com/gpu", 0))
    assert config.run.device == ("cuda" if gpus else "cpu")
    assert not gpus or config.run.workers == group["replicas"] * gpus


@pytest.mark.parametrize("pool", VALUES["pools"])
def test_a_job_takes_its_cluster_with_it(pool):
    job = of_kind("RayJob")[f"rayjob_{pool}"]["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert job["ttlSecondsAfterFinished"] == VALUES["job"]["keep_seconds"]
    assert job["activeDeadlineSeconds"] == VALUES["job"]["deadline_seconds"]
    assert job["backoffLimit"] == VALUES["job"]["retries"]


@pytest.mark.parametrize(
    ("variant", "labels"),
    [
        ("as they are", None),
        ("kueue", {"kueue.x-k8s.io/queue-name": "raid"}),
        ("volcano", {"ray.io/scheduler-name": "volcano", "volcano.sh/queue-name": "raid"}),
    ],
)
def test_gang_scheduling_is_a_matter_of_labels(variants, variant, labels):
    found = [
        *of_kind("RayJob", variants[variant]).values(),
        *of_kind("RayCluster", variants[variant]).values(),
    ]
    assert [document["metadata"].get("labels") for document in found] == [labels] * 4


def test_the_network_policy_lets_in_its_own_kuberay_and_prometheus():
    (policy,) = of_kind("NetworkPolicy").values()
    assert policy["spec"]["podSelector"] == {}
    inside, *outside = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    assert {
        each["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: each["ports"]
        for each in outside
    } == {
        VALUES["operator_namespace"]: [{"port": VALUES["ports"]["dashboard"]}],
        VALUES["monitoring"]["namespace"]: [{"port": VALUES["ports"]["metrics"]}],
    }


def test_mlflow_is_of_a_database_and_keeps_its_artifacts(variants):
    for variant in ("as they are", "s3"):
        server = of_kind("Deployment", variants[variant])["mlflow"]["spec"]
        (container,) = server["template"]["spec"]["containers"]
        uri = environment(container)["MLFLOW_BACKEND_STORE_URI"]
        databases = [d for _, d in manifests(variants[variant]) if d["kind"] == "StatefulSet"]
        (database,) = (d for d in databases if d["metadata"]["name"] in uri)
        known = environment(database["spec"]["template"]["spec"]["containers"][0])
        assert uri == (
            f"postgresql://{known['POSTGRES_USER']}:$(DATABASE_PASSWORD)@"
            f"{database['metadata']['name']}:5432/{known['POSTGRES_DB']}"
        )
        options = dict(each.removeprefix("--").split("=", 1) for each in container["args"])
        if variant == "s3":
            assert options["artifacts-destination"] == "s3://bucket/mlflow"
            assert "volumeMounts" not in container
        else:
            (mount,) = container["volumeMounts"]
            assert options["artifacts-destination"] == mount["mountPath"]
        assert VALUES["mlflow"]["service"] in options["allowed-hosts"]


def test_mlflow_knows_what_it_is_told():
    command = import_module("mlflow.cli").server
    options = {option for each in command.params for option in each.opts}
    variables = {each.envvar for each in command.params}
    (container,) = of_kind("Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    assert {each.partition("=")[0] for each in container["args"]} <= options
    assert "MLFLOW_BACKEND_STORE_URI" in set(environment(container)) & variables


def test_services_name_pods_that_are_there():
    for file, document in manifests():
        if document["kind"] == "Service":
            owners = [d for f, d in manifests() if f == file and "template" in d.get("spec", {})]
            assert document["spec"]["selector"] in [
                owner["spec"]["template"]["metadata"]["labels"] for owner in owners
            ]
