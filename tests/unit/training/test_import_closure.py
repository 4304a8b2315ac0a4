"""The import closure of a module: on a small package written here, and compared with what the interpreter loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from fraud.training import model_inputs
from fraud.training.import_closure import closure

ROOT = Path(__file__).resolve().parents[3]
LOADED = "import sys, fraud.training.train; print(*(name for name in sys.modules if name.startswith('fraud.')))"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    files = {
        "__init__.py": "", "job.py": "import json\nfrom fraud.a import one, VALUE\n", "alone.py": "",
        "a/__init__.py": "VALUE = 1\n", "a/one.py": "def f():\n    import fraud.b.two\n", "a/unused.py": "",
        "b/__init__.py": "", "b/two.py": 'from numpy import array\nPAGE = "page.j2"\n',
        "b/page.j2": '{% include "style.css" %}', "b/style.css": "", "b/other.css": "",
        "levels.py": 'from importlib import import_module\nimport_module(f"fraud.c.{name}")\nimport_module("numpy")\n',
        "c/__init__.py": "", "c/three.py": "from fraud.b import two\n", "c/four.py": "",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "fraud" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "fraud"


def names(package: Path, module: str, left_out: tuple[str, ...] = ()) -> set[str]:
    return {str(path.relative_to(package)) for path in closure(package, [module], left_out)}


def test_imports_are_followed_into_functions_packages_and_files_beside_a_module(package: Path) -> None:
    two = {"b/__init__.py", "b/two.py", "b/page.j2", "b/style.css"}
    assert names(package, "fraud.job") == {"__init__.py", "job.py", "a/__init__.py", "a/one.py", *two}


def test_a_module_imported_by_its_name_may_be_any_of_its_package(package: Path) -> None:
    two = {"b/__init__.py", "b/two.py", "b/page.j2", "b/style.css"}
    assert names(package, "fraud.levels") == {
        "__init__.py", "levels.py", "c/__init__.py", "c/three.py", "c/four.py", *two,
    }  # fmt: skip


def test_what_only_a_left_out_module_imports_is_left_out(package: Path) -> None:
    assert names(package, "fraud.job", ("fraud.a.one",)) == {"__init__.py", "job.py", "a/__init__.py"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import fraud.gone", "no module fraud.gone"),
        ("from fraud.gone import x", "no module fraud.gone"),
        ("import importlib\nimportlib.import_module(f'fraud.gone.{x}')", "no module matches fraud.gone."),
        ("import importlib\nimportlib.import_module(x)", "import_module of a name"),
    ],
)
def test_an_import_that_cannot_be_followed_is_an_error(package: Path, code: str, message: str) -> None:
    (package / "alone.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        names(package, "fraud.alone")


def test_a_name_that_matches_no_module_is_an_error(package: Path) -> None:
    with pytest.raises(ValueError, match=r"no module fraud\.gone"):
        names(package, "fraud.gone")
    with pytest.raises(ValueError, match=r"no module fraud\.gone"):
        names(package, "fraud.job", ("fraud.gone",))


def test_everything_that_the_interpreter_loads_for_training_is_in_the_closure() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "fraud.training.train" in loaded
    package = ROOT / "src/fraud"
    files = {path.relative_to(package).with_suffix("") for path in closure(package, ["fraud.training.train"])}
    found = {".".join(["fraud", *path.parts]).removesuffix(".__init__") for path in files}
    assert loaded <= found
    assert set(model_inputs.LEFT_OUT) <= found
