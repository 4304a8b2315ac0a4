"""Rules for every container of the stack, checked on docker-compose.yml and the Dockerfiles. No engine needed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))
OWN = "fraud-"
each_service = pytest.mark.parametrize("name", SERVICES)
each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)


def last_stage(path: Path) -> str:
    return path.read_text().rpartition("\nFROM ")[2]


@each_service
def test_a_container_has_minimal_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    # The platform's own images set their user: see below.
    assert service["image"].startswith(OWN) or re.fullmatch(r"[1-9]\d*:\d+", service["user"])


@each_service
def test_a_container_has_limits(name: str) -> None:
    assert set(SERVICES[name]["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@each_service
def test_an_image_is_pinned_to_a_release(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert tag == "${FRAUD_VERSION:-local}" or re.match(r"v?\d+\.\d+(\.\d+)?", tag), tag


@each_service
def test_ports_are_published_on_the_loopback_interface(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:"), port


@each_service
def test_no_container_reaches_the_engine_or_the_hosts_files(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        assert "docker.sock" not in volume
        assert source in COMPOSE["volumes"] or (source.startswith("./infra/") and volume.endswith(":ro")), volume


@each_service
def test_a_service_has_a_health_check_and_waits_for_healthy_stores(name: str) -> None:
    service = SERVICES[name]
    one_shot = service["restart"] == "no"
    assert one_shot or service["image"].startswith(OWN) or "test" in service["healthcheck"]
    for needed, how in service.get("depends_on", {}).items():
        runs_once = SERVICES[needed]["restart"] == "no"
        assert how["condition"] == ("service_completed_successfully" if runs_once else "service_healthy")
        # A profile that starts a service starts what it needs.
        assert set(service["profiles"]) <= set(SERVICES[needed]["profiles"]), needed


@each_service
def test_a_service_is_in_the_full_or_only_in_the_streaming_profile(name: str) -> None:
    profiles = SERVICES[name]["profiles"]
    assert "full" in profiles or profiles == ["streaming"]
    assert set(profiles) <= {"serving", "monitoring", "streaming", "full"}


def test_no_secret_has_a_default() -> None:
    for name, rest in re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", COMPOSE_TEXT):
        secret = re.search(r"PASSWORD|SECRET|_KEY$", name) is not None
        assert not secret or rest == ":?", name


def test_every_line_with_a_credential_reads_it_from_the_secret_file() -> None:
    for line in COMPOSE_TEXT.splitlines():
        match = re.match(r"\s+\w*(PASSWORD|SECRET\w*|FERNET_KEY|SERVING_KEY): (.*)", line)
        assert not match or match[2].startswith("${"), line


def test_the_stores_are_not_reachable_from_outside() -> None:
    assert COMPOSE["networks"]["backend"]["internal"]
    for name in ("postgres", "valkey"):
        assert SERVICES[name]["networks"] == ["backend"]
        assert "ports" not in SERVICES[name]


def test_prometheus_looks_for_containers_that_exist() -> None:
    for path in (ROOT / "infra/prometheus/targets-compose").glob("*.json"):
        for target in (target for group in json.loads(path.read_text()) for target in group["targets"]):
            host = target.partition(":")[0]
            assert host == "localhost" or "monitoring" in SERVICES[host]["networks"], target


def test_no_listener_of_kafka_outside_of_its_container_is_without_a_login() -> None:
    lines = (ROOT / "infra/kafka/server.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    protocols = dict(pair.split(":") for pair in properties["listener.security.protocol.map"].split(","))
    for listener in properties["listeners"].split(","):
        name, address = listener.split("://")
        assert protocols[name] == "SASL_PLAINTEXT" or address.startswith("127.0.0.1:"), listener
    assert properties["allow.everyone.if.no.acl.found"] == "false"
    assert properties["auto.create.topics.enable"] == "false"
    published = {port.rpartition(":")[2] for port in SERVICES["kafka"]["ports"]}
    assert published == {"9095"}
    assert SERVICES["kafka-topics"]["network_mode"] == "service:kafka"


def test_the_proxy_balances_over_every_replica() -> None:
    replicas = {f"{name}:8000" for name in SERVICES if re.fullmatch(r"serving-[a-z]", name)}
    settings = {name: value for name, value in SERVICES["proxy"]["environment"].items() if name.startswith("REPLICA_")}
    assert {default for value in settings.values() if (default := value[2:-1].partition("-")[2])} == replicas
    config = (ROOT / "infra/proxy/haproxy.cfg").read_text()
    for backend in ("connected", "ready", "live"):
        section = re.split(r"\n(?=\w)", config.partition(f"\nbackend {backend}\n")[2])[0]
        assert re.findall(r'server \w "\$\{(\w+)\}"', section) == [*settings]


@each_dockerfile
def test_an_own_image_runs_as_an_unprivileged_user(path: Path) -> None:
    stage = last_stage(path)
    assert re.search(r"^USER 10001:10001$", stage, re.MULTILINE)
    assert "HEALTHCHECK" in stage
    assert 'org.opencontainers.image.revision="${GIT_COMMIT}"' in stage


@each_dockerfile
def test_an_own_image_is_built_in_stages_from_locks_with_hashes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\nFROM ") > 1
    for line in re.findall(r"pip install .*", text):
        assert "--require-hashes" in line or "--no-index" in line, line
    # The source of packages is configured outside of the file (pip.conf, build arguments).
    assert "https://" not in text


def test_the_serving_image_has_no_package_of_training() -> None:
    lock = (ROOT / "services/serving/requirements.txt").read_text()
    for name in ("pandas", "pyspark", "torch", "mlflow", "scikit-learn", "pyarrow", "feast"):
        assert not re.search(rf"^{name}==", lock, re.MULTILINE), name
