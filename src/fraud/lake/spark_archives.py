"""What a job sends to the workers of a Spark cluster: its environment and its code, as two archives.

A worker then needs Java, Spark of the driver's version and Python 3.11, and neither this project nor its packages. The
files are copied from the environment of the driver, so that both compute the same bytes. docs/scale.md, "Spark".
"""

import io
import os
import platform
import re
import tarfile
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

import fraud
from fraud.errors import BadConfigError

ROOTS: Final = (
    "deltalake", "fsspec", "numba", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "pydantic",
    "pydantic-settings", "pyyaml", "s3fs", "structlog",
)  # fmt: skip
"""Distributions that tasks import. Their own requirements are sent, too. pyspark and py4j are parts of Spark."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_NOT_SENT: Final = {"__pycache__", "tests"}


def environment(folder: Path) -> Path:
    """The archive of the environment, `environment-KEY.tar.gz`, written to `folder` if it is not there.

    Its top level is a folder for PYTHONPATH. KEY depends on the files of the distributions and on Python's version.
    An archive of another environment is removed. Raises BadConfigError when a distribution is missing.
    """
    sent = _distributions()
    key = sha256(platform.python_version().encode())
    for found in sent:
        key.update((found.read_text("RECORD") or f"{found.name} {found.version}").encode())
    path = folder / f"environment-{key.hexdigest()[:24]}.tar.gz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        # The archive is sent once to each executor: fast compression takes a quarter of the time of the default.
        with tarfile.open(temporary, "w:gz", compresslevel=1) as archive:
            for name, source in sorted({file for found in sent for file in _files(found)}):
                archive.add(source, name, recursive=False)
        for other in folder.glob("environment-*.tar.gz"):
            other.unlink(missing_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def code(folder: Path) -> Path:
    """The archive of the package `fraud`, `code.zip`, written to `folder`."""
    package = Path(fraud.__file__).parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sources():
            archive.write(source, source.relative_to(package.parent))
    path = folder / "code.zip"
    path.write_bytes(data.getvalue())
    return path


def code_key() -> str:
    """A hash of the files of the package `fraud`, as this process has them."""
    key = sha256()
    package = Path(fraud.__file__).parent
    for source in sources():
        key.update(f"{source.relative_to(package)} {sha256(source.read_bytes()).hexdigest()}\n".encode())
    return key.hexdigest()


def sources() -> list[Path]:
    """The files of the package `fraud`, sorted."""
    package = Path(fraud.__file__).parent
    return sorted(path for path in package.rglob("*") if path.is_file() and not _NOT_SENT & set(path.parts))


def _distributions() -> list[Distribution]:
    """`ROOTS` and what they require, sorted by name."""
    found: dict[str, Distribution] = {}
    missing = set(ROOTS)
    while missing:
        name = missing.pop()
        try:
            found[_normal(name)] = distribution(name)
        except PackageNotFoundError as error:
            raise BadConfigError(
                f"Spark's workers need {name}", expected="the ML environment", hint="make setup"
            ) from error
        missing |= {need for need in _required(found[_normal(name)]) if _normal(need) not in found}
    return [found[name] for name in sorted(found)]


def _required(found: Distribution) -> Iterator[str]:
    """Names of installed distributions that a distribution requires. Extras are of no use to a task."""
    for line in found.requires or ():
        requirement, _, marker = line.partition(";")
        name = _NAME.match(requirement.strip())
        if "extra" in marker or name is None:
            continue
        try:
            distribution(name[0])
        except PackageNotFoundError:  # for another platform or version of Python
            continue
        yield name[0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files(found: Distribution) -> Iterator[tuple[str, str]]:
    """Names in the archive and paths of a distribution's files, without tests and scripts of bin/.

    Byte code is sent where this environment has it: compiling it takes a worker longer than unpacking.
    """
    for file in found.files or ():
        if ".." in file.parts or _NOT_SENT & set(file.parts) or not (path := Path(str(file.locate()))).is_file():
            continue
        yield str(file), str(path)
        if path.suffix == ".py" and (compiled := Path(cache_from_source(str(path)))).is_file():
            yield str(Path(file).with_name("__pycache__") / compiled.name), str(compiled)
