"""infra/spark/kubernetes: Spark's own driver makes the pods from it.

A stand-in answers as the API server does, and a host of tests/netns.py runs the container of the pod.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from tests import kubernetes_api, netns, own_disk

ROOT: Final = Path(__file__).resolve().parents[3]
FOLDER: Final = ROOT / "infra/spark/kubernetes"
SCRIPT: Final = ROOT / "services/airflow/spark-executor.sh"
VERSIONS: Final = ("1.31", "1.34", "1.37")
PACKAGE: Final = Path(os.path.realpath(sys.prefix))
JOB: Final = """
import structlog
from fraud.lake.spark import run_tasks, spark_session
from fraud.settings import Settings

def where(_):
    import os
    import fraud
    return os.uname().nodename, fraud.__file__

with spark_session(Settings.load(), "probe") as session:
    print(sorted(set(run_tasks(session, where, list(range(4)), lambda _: 1, structlog.get_logger()))))
"""


def test_the_documents_are_valid_and_refer_to_each_other() -> None:
    account, role, binding, policy = yaml.safe_load_all((FOLDER / "access.yaml").read_text())
    template = yaml.safe_load((FOLDER / "executor.yaml").read_text())
    for version in VERSIONS:
        for document in (account, role, binding, policy):
            kubernetes_validate.validate(document, version, strict=True)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
    [container] = template["spec"]["containers"]
    assert container["command"] == [f"/opt/fraud/{SCRIPT.relative_to(ROOT)}"]
    dockerfile = (ROOT / "services/airflow/Dockerfile").read_text()
    assert SCRIPT.name in dockerfile
    assert "COPY infra/spark infra/spark" in dockerfile
    security = template["spec"]["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in dockerfile


@pytest.fixture
def hosts() -> Iterator[list[netns.Host]]:
    if reason := netns.missing():
        pytest.skip(reason)
    with netns.hosts("driver", "pod") as made:
        yield made


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("code", ["of the job", "other"])
def test_a_pod_of_the_settings_runs_tasks_with_the_code_of_the_image(
    hosts: list[netns.Host], tmp_path: Path, code: str
) -> None:
    driver, host = hosts
    machine = driver.address.rpartition(".")[0] + ".1"
    with kubernetes_api.running(machine) as api:
        conf = tmp_path / "conf"
        conf.mkdir()
        settings = (
            (FOLDER / "spark-defaults.conf").read_text().replace("/opt/fraud/infra/spark/kubernetes", str(FOLDER))
        )
        only_here = "spark.kubernetes.executor.enableApiWatcher false\n"
        conf.joinpath("spark-defaults.conf").write_text(
            re.sub(r"(?m)^(spark.executor.instances) .*", r"\1 1", settings) + only_here
        )
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_", "SPARK_"))},
            "PYTHONPATH": str(ROOT / "src"), "FRAUD_HOME": str(tmp_path / "home"), "FRAUD_PROJECT": str(ROOT),
            "FRAUD_SPARK_MASTER": f"k8s://{api.url}", "FRAUD_SPARK_WORKERS": "image", "SPARK_CONF_DIR": str(conf),
            "SPARK_LOCAL_HOSTNAME": driver.address, "AWS_DEFAULT_REGION": "eu-central-1", "KUBECONFIG": "/dev/null",
        }  # fmt: skip
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            job = driver.start(sys.executable, "-c", JOB, env=variables, stdout=out, stderr=err)
        while not api.of_kind("Pod"):
            api.new.wait(timeout=1)
            assert job.poll() is None, (tmp_path / "err").read_text()[-5_000:]
        [pod] = api.of_kind("Pod")
        check(pod)
        own = tmp_path / "src"
        shutil.copytree(ROOT / "src", own, ignore=shutil.ignore_patterns("__pycache__"))
        if code == "other":
            changed = own / "fraud/errors.py"
            changed.write_text(f"{changed.read_text()}# another version\n")
        with (tmp_path / "pod").open("wb") as log:
            host.start(*container(pod, host, tmp_path / "disk", own), stdout=log, stderr=log)
        ended = job.wait(timeout=600)
    errors = (tmp_path / "err").read_text()
    if code == "other":
        assert ended == 1, errors[-5_000:]
        assert "Spark's workers have other code than the job" in errors
    else:
        assert ended == 0, errors[-5_000:] + (tmp_path / "pod").read_text()[-5_000:]
        assert (tmp_path / "out").read_text().splitlines()[-1] == f"[('pod', '{ROOT}/src/fraud/__init__.py')]"


def check(pod: dict[str, Any]) -> None:
    """The pod is valid, restricted, and of the size that docs/scale.md gives."""
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    [one] = pod["spec"]["containers"]
    assert one["image"] == "registry.example.invalid/fraud-airflow:0.1.0"
    assert one["args"] == ["executor"]
    assert one["resources"]["limits"] == {"cpu": "1", "memory": "2944Mi"}
    assert one["resources"]["requests"] == {"cpu": "1", "memory": "2944Mi"}
    assert one["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["labels"]["spark-role"] == "executor"
    assert {"name": "AWS_DEFAULT_REGION", "value": "eu-central-1"} in one["env"]
    assert {"name": "ARROW_DEFAULT_MEMORY_POOL", "value": "system"} in one["env"]


def container(pod: dict[str, Any], host: netns.Host, disk: Path, source: Path) -> list[str]:
    """The command of the pod's container. The disk of the host has the image's files at the paths of this checkout."""
    [one] = pod["spec"]["containers"]
    fields = {"status.podIP": host.address, "metadata.name": pod["metadata"]["name"]}
    environment = {
        e["name"]: e["value"] if "value" in e else fields[e["valueFrom"]["fieldRef"]["fieldPath"]] for e in one["env"]
    }
    assert one["command"] == [f"/opt/fraud/{SCRIPT.relative_to(ROOT)}"]
    disk.mkdir()
    image = {
        "PATH": f"{PACKAGE}/bin:/usr/bin:/bin", "PYTHONPATH": f"{ROOT}/src", "HOME": "/scratch",
        "SPARK_HOME": f"{PACKAGE}/lib/python3.11/site-packages/pyspark", **environment,
        "SPARK_LOCAL_DIRS": "/scratch",
    }  # fmt: skip
    given = {
        SCRIPT.parent: f"/opt/fraud/{SCRIPT.parent.relative_to(ROOT)}", PACKAGE: str(PACKAGE), source: f"{ROOT}/src",
        Path(sys.prefix): sys.prefix,
    }  # fmt: skip
    variables = [f"{name}={value}" for name, value in image.items()]
    return own_disk.command(
        disk, "env", "-i", *variables, *one["command"], *one["args"], given=given, directory="/scratch"
    )
