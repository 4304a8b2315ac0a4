"""infra/kubernetes: every document is valid by Kubernetes' schemas and agrees with the image and the settings."""

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "infra/kubernetes"
SERVING = ROOT / "services/serving"
DOCKERFILE = (SERVING / "Dockerfile").read_text()
VERSIONS = ("1.31", "1.34", "1.37")
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((BASE / "kustomization.yaml").read_text())
DOCUMENTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((BASE / name).read_text())
}
POD: dict[str, Any] = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
ENVIRONMENT = dict(
    line.split("=", 1) for line in (BASE / "serving.env").read_text().splitlines() if line and line[0] != "#"
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_is_valid_by_the_schema(kind: str, version: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[kind], version, strict=True)


def test_the_schemas_refuse_a_misspelt_field() -> None:
    wrong = {**DOCUMENTS["Service"], "spec": {**DOCUMENTS["Service"]["spec"], "selectr": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selectr"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_kustomization_names_every_file() -> None:
    named = {*KUSTOMIZATION["resources"], *(e for g in KUSTOMIZATION["configMapGenerator"] for e in g["envs"])}
    assert named | {"kustomization.yaml"} == {path.name for path in BASE.iterdir()}


def test_every_reference_has_a_target() -> None:
    labels = DOCUMENTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert DOCUMENTS[kind]["spec"]["selector"]["matchLabels"] == labels
    assert DOCUMENTS["Service"]["spec"]["selector"] == labels
    assert DOCUMENTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    target = DOCUMENTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", DOCUMENTS["Deployment"]["metadata"]["name"])
    assert POD["serviceAccountName"] == DOCUMENTS["ServiceAccount"]["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
    claim = volumes["predictions"]["persistentVolumeClaim"]["claimName"]
    assert claim == DOCUMENTS["PersistentVolumeClaim"]["metadata"]["name"]
    config = {source["configMapRef"]["name"] for source in CONTAINER["envFrom"] if "configMapRef" in source}
    assert config == {generator["name"] for generator in KUSTOMIZATION["configMapGenerator"]}
    # The two Secrets are created in the cluster; the page has the commands.
    page = (ROOT / "docs/kubernetes.md").read_text()
    secrets = {source["secretRef"]["name"] for source in CONTAINER["envFrom"] if "secretRef" in source}
    for name in (*secrets, volumes["api-keys"]["secret"]["secretName"]):
        assert f"secret generic {name} " in page


def test_the_pod_has_the_rights_of_the_container_of_the_compose_stack() -> None:
    assert POD["automountServiceAccountToken"] is False
    assert DOCUMENTS["ServiceAccount"]["automountServiceAccountToken"] is False
    security = POD["securityContext"]
    assert security["runAsNonRoot"] is True
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in DOCKERFILE
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD.keys()
    assert set(CONTAINER["resources"]["requests"]) == set(CONTAINER["resources"]["limits"]) == {"cpu", "memory"}
    assert DOCUMENTS["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    enforced = DOCUMENTS["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"


def test_ports_are_those_of_the_image_and_the_settings() -> None:
    [exposed] = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert {str(port) for port in PORTS.values()} == set(exposed.split())
    assert ENVIRONMENT["SERVING_PORT"] == str(PORTS["http"])
    assert ENVIRONMENT["SERVING_INTERNAL_PORT"] == str(PORTS["internal"])
    assert {port["targetPort"] for port in DOCUMENTS["Service"]["spec"]["ports"]} == {"http"}
    allowed = {p["port"] for rule in DOCUMENTS["NetworkPolicy"]["spec"]["ingress"] for p in rule["ports"]}
    assert allowed == set(PORTS)


def parsed(module: str) -> ast.Module:
    """A module of the service. This environment does not have its dependencies, so it cannot be imported."""
    return ast.parse((SERVING / "src/fraud_serving" / module).read_text())


def routes() -> set[object]:
    """Paths of the `@app.get(PATH, ...)` functions of the service."""
    app = parsed("http/app.py")
    functions = [node for node in ast.walk(app) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    calls = [call for function in functions for call in function.decorator_list if isinstance(call, ast.Call)]
    return {call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant)}


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_requests_a_route_of_the_service(probe: str) -> None:
    requested = CONTAINER[probe]["httpGet"]
    assert requested["port"] in PORTS
    assert requested["path"] in routes()
    # A replica without a model answers by the rule. It is not ready, and it must not be restarted.
    assert requested["path"] == ("/ready" if probe == "readinessProbe" else "/health")


def test_a_stopping_replica_has_time_for_its_accepted_requests() -> None:
    constants = [node for node in parsed("process.py").body if isinstance(node, ast.AnnAssign)]
    [drain] = [ast.literal_eval(n.value) for n in constants if n.value and ast.unparse(n.target) == "_GRACE_S"]
    name, wait = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert name == "sleep"
    assert POD["terminationGracePeriodSeconds"] >= int(wait) + drain + 5
    update = DOCUMENTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}
    assert DOCUMENTS["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 2
    assert DOCUMENTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_the_image_has_a_release_for_its_tag() -> None:
    [image] = KUSTOMIZATION["images"]
    assert image["name"] == CONTAINER["image"] == "fraud-serving"
    assert re.fullmatch(r"\d+\.\d+\.\d+", image["newTag"])


def test_every_variable_is_a_setting_of_serving_and_secrets_are_not_among_them() -> None:
    settings = [node for node in parsed("settings.py").body if isinstance(node, ast.ClassDef)]
    assert {"ScoringSettings", "Settings"} <= {each.name for each in settings}
    fields = {ast.unparse(node.target) for each in settings for node in each.body if isinstance(node, ast.AnnAssign)}
    assert len(fields) > 15
    for name in ENVIRONMENT:
        assert name.removeprefix("SERVING_").lower() in fields
        assert not re.search(r"PASSWORD|SECRET|REDIS_URL", name)
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    for name in ("SERVING_MODEL_CACHE", "SERVING_PREDICTION_LOG"):
        assert not mounts[ENVIRONMENT[name]].get("readOnly")
        assert ENVIRONMENT[name] in DOCKERFILE
    assert mounts[str(Path(ENVIRONMENT["SERVING_API_KEYS"]).parent)]["readOnly"] is True


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the base; the other tests need none")
def test_kubectl_renders_the_base() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=True)
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {document["kind"] for document in rendered} == {*DOCUMENTS, "ConfigMap"}
    for document in rendered:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        assert document["metadata"].get("namespace") == ("fraud" if document["kind"] != "Namespace" else None)
    [deployment] = [document for document in rendered if document["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.invalid/fraud-serving:0.1.0"
    [config] = [document["metadata"]["name"] for document in rendered if document["kind"] == "ConfigMap"]
    assert container["envFrom"][0]["configMapRef"]["name"] == config
