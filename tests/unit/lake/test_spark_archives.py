"""The archives that a job sends to the workers of a Spark cluster."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fraud.errors import BadConfigError
from fraud.lake import spark_archives

IMPORT = "import structlog, typing_extensions, pathlib; print(pathlib.Path(structlog.__file__).parent)"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages whose archive takes half a minute."""
    monkeypatch.setattr(spark_archives, "ROOTS", ("aiobotocore", "structlog"))


@pytest.mark.usefixtures("small")
def test_the_environment_has_the_distributions_and_what_they_require(tmp_path: Path) -> None:
    path = spark_archives.environment(tmp_path / "spark")
    with tarfile.open(path) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "unpacked", filter="data")
    tops = {name.split("/")[0] for name in names}
    # aiobotocore requires botocore, which requires dateutil, which requires six, a module without a folder.
    assert {"structlog", "aiobotocore", "botocore", "dateutil", "six.py"} <= tops
    assert "numpy" not in tops
    assert not any("/tests/" in name or name.startswith("..") for name in names)
    done = subprocess.run(
        [sys._base_executable, "-S", "-c", IMPORT], env={"PYTHONPATH": str(tmp_path / "unpacked")},  # type: ignore[attr-defined]
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "unpacked/structlog")


@pytest.mark.usefixtures("small")
def test_the_environment_is_written_once_and_replaces_that_of_other_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spark_archives.environment(tmp_path)
    written = first.stat().st_mtime_ns
    assert spark_archives.environment(tmp_path) == first
    assert first.stat().st_mtime_ns == written
    monkeypatch.setattr(spark_archives, "ROOTS", ("structlog",))
    second = spark_archives.environment(tmp_path)
    assert list(tmp_path.iterdir()) == [second]
    assert second != first


def test_a_distribution_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_archives, "ROOTS", ("structlog", "no-such-distribution"))
    with pytest.raises(BadConfigError, match="no-such-distribution"):
        spark_archives.environment(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unpacked_code_is_imported_and_has_the_key_of_the_original(tmp_path: Path) -> None:
    with zipfile.ZipFile(spark_archives.code(tmp_path)) as archive:
        archive.extractall(tmp_path / "code")  # noqa: S202 - an archive of our own
    program = "from fraud.lake import spark_archives as a; print(a.__file__, a.code_key())"

    def key() -> list[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "code")}
        return subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).split()

    assert key() == [f"{tmp_path}/code/fraud/lake/spark_archives.py", spark_archives.code_key()]
    changed = tmp_path / "code/fraud/errors.py"
    changed.write_text(f"{changed.read_text()}# another version\n")
    assert key()[1] != spark_archives.code_key()
