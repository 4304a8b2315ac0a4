"""The files that a module of `fraud` needs, directly or through what it imports, read from the source code."""

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

_QUOTED_FILE: Final = re.compile(r'"(\w+(?:\.\w+)*\.(?!py")\w+)"')


def closure(package: Path, modules: Iterable[str], left_out: Collection[str] = ()) -> list[Path]:
    """The files of the named modules and of everything they import from `fraud`, sorted.

    `package` is the folder of `fraud`; it is read, not imported. The `__init__.py` of every package on the way counts,
    so do imports inside functions, and files beside a module that it names in double quotes (templates, Lua).
    `import_module(f"fraud.a.{name}")` counts as every module of `fraud.a`. Modules in `left_out` are not followed.

    Raises ValueError when a module that is named or imported does not exist, or an import cannot be followed.
    """
    for name in left_out:
        _file_of(package, name)
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file_of(package, name)
        if name not in left_out and path not in found:
            found |= {path, *_data_files(path)}
            waiting += _imports(package, path)
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return sorted(found)


def _file_of(package: Path, module: str) -> Path:
    if (path := _file_or_none(package, module)) is None:
        raise ValueError(f"there is no module {module} in {package}")
    return path


def _file_or_none(package: Path, module: str) -> Path | None:
    path = package.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports(package: Path, path: Path) -> Iterator[str]:
    """Names of the modules of `fraud` that the file imports."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if _file_or_none(package, name) else str(node.module)
        elif isinstance(node, ast.Call) and "import_module" in (
            getattr(node.func, "id", ""), getattr(node.func, "attr", ""),
        ):  # fmt: skip
            yield from _imported_by_name(package, path, node)


def _imported_by_name(package: Path, path: Path, call: ast.Call) -> Iterator[str]:
    match call.args[0]:
        case ast.Constant(value=str(name)):
            yield from [name] if _is_ours(name) else []
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]) if _is_ours(start) and start.endswith("."):
            parent = start.removesuffix(".")
            modules = [file.stem for file in package.joinpath(*parent.split(".")[1:]).glob("[!_]*.py")]
            if not modules:
                raise ValueError(f"{path}:{call.lineno}: no module matches {start}*")
            yield from (f"{parent}.{module}" for module in modules)
        case _:
            raise ValueError(f"{path}:{call.lineno}: import_module of a name that is not in the source code")


def _data_files(path: Path) -> Iterator[Path]:
    """Files beside `path` that it names, and those that they name."""
    for name in _QUOTED_FILE.findall(path.read_text()):
        file = path.with_name(name)
        if file.is_file():
            yield file
            yield from _data_files(file)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "fraud"
