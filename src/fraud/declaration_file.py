"""Read `feature_repo/features.yaml`. An error names the line and the key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from fraud.core.declaration import Declaration, DeclarationError, parse
from fraud.errors import BadConfigError

NAME: Final = "feature_repo/features.yaml"
_MAX_BYTES: Final = 1_000_000


def load_of(project: Path) -> Declaration:
    """The declaration of a checkout. Raises BadConfigError."""
    return load(project / NAME)


def load(path: Path) -> Declaration:
    """Read and check a declaration. Raises BadConfigError with the line and the key of the first error."""
    if not path.is_file():
        raise BadConfigError(f"{path} does not exist", hint="run from the project's folder or set FRAUD_PROJECT")
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _MAX_BYTES:
            raise BadConfigError(f"{path} is too long", expected=f"at most {_MAX_BYTES} bytes", got=str(len(text)))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfigError(f"{path} is not YAML in UTF-8", got=str(error)) from error
    except OSError as error:
        raise BadConfigError(f"{path} cannot be read", got=str(error)) from error
    for name, line in _repeated(root):
        raise BadConfigError(f"{path}, line {line}: {name}", expected="each key once", got=f"{name} again")
    try:
        return parse(yaml.safe_load(text))
    except DeclarationError as error:
        key = ".".join(map(str, error.path)) or "the file as a whole"
        raise BadConfigError(
            f"{path}, line {_line(root, error.path)}: {key}", expected=error.expected, got=error.got,
            hint="docs/features.md lists the keys; fraud features check FILE checks a file",
        ) from error  # fmt: skip


def _line(root: yaml.Node | None, path: tuple[str | int, ...]) -> int:
    """Line of the deepest part of a path that the file contains, from 1."""
    node, line = root, 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _repeated(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has twice, with the line of the second."""
    if isinstance(node, yaml.MappingNode):
        seen = set[str]()
        for key, value in node.value:
            if str(key.value) in seen:
                yield str(key.value), key.start_mark.line + 1
            seen.add(str(key.value))
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)
