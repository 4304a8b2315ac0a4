"""Read `feature_repo/features.yaml`. An error names the line and the key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from fraud.core.declaration import Declaration, DeclarationError, parse
from fraud.errors import BadConfigError

NAME: Final = "feature_repo/features.yaml"
_MAX_BYTES: Final = 256 * 1_024
_MAX_DEPTH: Final = 16
_HINT: Final = "docs/features.md lists the keys; fraud features check FILE checks a file"


def load_of(project: Path) -> Declaration:
    """The declaration of a checkout. Raises BadConfigError."""
    return load(project / NAME)


def load(path: Path) -> Declaration:
    """Read and check a declaration. Raises BadConfigError with the line and the key of the first error."""
    root, written = _content(path)
    try:
        return parse(written)
    except DeclarationError as error:
        key = ".".join(map(str, error.path)) or "the file as a whole"
        raise BadConfigError(
            f"{path}, line {_line(root, error.path)}: {key}", expected=error.expected, got=error.got, hint=_HINT
        ) from error


def _content(path: Path) -> tuple[yaml.Node | None, object]:
    """The file as YAML nodes, which have line numbers, and as plain values."""
    if not path.is_file():
        raise BadConfigError(f"{path} does not exist", hint="run from the project's folder or set FRAUD_PROJECT")
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise BadConfigError(f"{path} is too long", expected=f"at most {_MAX_BYTES:,} bytes", got=f"{size:,} bytes")
        text = path.read_text(encoding="utf-8")
        _check_structure(path, text)
        loader = yaml.CSafeLoader(text)
        try:
            root = loader.get_single_node()
            for key, line in _repeated(root):
                raise BadConfigError(f"{path}, line {line}: {key}", expected="each key once", got=f"{key} again")
            return root, None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is about the encoding, or a date such as 2025-13-45
        raise BadConfigError(f"{path} is not YAML in UTF-8", got=str(error), hint=_HINT) from error
    except OSError as error:
        raise BadConfigError(f"{path} cannot be read", got=str(error)) from error


def _check_structure(path: Path, text: str) -> None:
    """Refuse aliases, whose content can be exponentially longer than the file, and deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise BadConfigError(f"{path}, line {line}: *{event.anchor}", expected="no aliases", hint=_HINT)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise BadConfigError(f"{path}, line {line}", expected=f"at most {_MAX_DEPTH} levels", hint=_HINT)


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
