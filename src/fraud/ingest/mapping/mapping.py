"""The mapping file: how the columns of a source become the contract. YAML, typed and validated."""

from collections.abc import Hashable
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, ValidationError, model_validator

from fraud.core.declaration import Declaration
from fraud.errors import BadConfigError
from fraud.ingest.mapping.sections import (
    Declared,
    Label,
    Number,
    Section,
    Source,
    Text,
    Time,
    check_section,
    section_of,
)


class _UniqueKeys(yaml.SafeLoader):
    """Rejects repeated keys, of which PyYAML would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(problem=f"{', '.join(twice)} twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class Mapping(Section):
    """The columns of the contract, each with its origin in the source. A missing optional column is null.

    In the file, the declared columns are keys beside the others.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Part of the names of landing files."""
    source: Source
    transaction_id: Text
    event_timestamp: Time
    created_timestamp: Time | None = None
    user_id: Text
    merchant_id: Text
    amount: Number
    label: Label | None = None
    declared: dict[str, Declared] = Field(default_factory=dict)
    """The declared columns that the source has, by name."""

    @property
    def _times(self) -> dict[str, Time]:
        times = {"event_timestamp": self.event_timestamp, "created_timestamp": self.created_timestamp}
        times["label.known_at"] = self.label.known_at if self.label else None
        return {name: time for name, time in times.items() if time is not None}

    @model_validator(mode="after")
    def _text_has_a_format(self) -> Self:
        for name, time in self._times.items():
            if self.source.format == "csv" and time.format is None and time.unit is None:
                raise ValueError(f"{name} needs format (strptime or ISO8601) or unit, because a CSV file contains text")
        return self

    @model_validator(mode="after")
    def _decimal_mark_stays(self) -> Self:
        removed = {"amount": self.amount.remove}
        removed |= {name: getattr(section, "remove", "") for name, section in self.declared.items()}
        for name, characters in removed.items():
            if self.source.decimal in characters:
                mark = self.source.decimal
                raise ValueError(
                    f"{name}.remove contains source.decimal, {mark!r}: set source.decimal, source.thousands"
                )
        return self

    @property
    def origins(self) -> dict[str, tuple[str, ...]]:
        """The source columns of each column of the contract. A declared column that is not mapped is left out."""
        created, label = self.created_timestamp or self.event_timestamp, self.label
        known_at = (label.known_at or self.event_timestamp).reads if label else ()
        return {
            "transaction_id": self.transaction_id.reads,
            "event_timestamp": self.event_timestamp.reads,
            "created_timestamp": created.reads,
            "user_id": self.user_id.reads,
            "merchant_id": self.merchant_id.reads,
            "amount": (self.amount.column,),
            **{name: section.reads for name, section in self.declared.items()},
            "is_fraud": (label.column,) if label else (),
            "label_timestamp": known_at,
        }

    @property
    def reads(self) -> tuple[str, ...]:
        """The source columns of the mapping, each once, in order."""
        return tuple(dict.fromkeys(name for columns in self.origins.values() for name in columns))

    @classmethod
    def load(cls, path: Path, declaration: Declaration) -> Self:
        """Read and validate the file. Raises BadConfigError with file and key."""
        if not path.is_file():
            raise BadConfigError(
                f"{path} is not there", expected="a mapping file", hint="docs/data.md has the reference of mapping keys"
            )
        try:
            written = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
        except UnicodeDecodeError as error:
            raise BadConfigError(
                f"{path} is not UTF-8", expected="a mapping saved as UTF-8", got=f"byte {error.start}: {error.reason}",
                hint="save it as UTF-8; source.encoding applies to the data",
            ) from error  # fmt: skip
        except yaml.YAMLError as error:
            raise BadConfigError(f"{path} is not YAML", got=str(error)) from error
        if not isinstance(written, dict):
            raise _invalid(path, "", "a mapping: keys with values", written)
        own = [name for name in cls.model_fields if name != "declared"]
        if unknown := [str(key) for key in written if key not in own and key not in declaration.columns]:
            columns = f", or a column of features.yaml: {', '.join(sorted(declaration.columns))}"
            raise _invalid(path, unknown[0], f"one of {', '.join(own)}{columns}", written.get(unknown[0]))
        declared = {
            name: _declared_section(path, name, section, declaration)
            for name, section in written.items()
            if name not in own and section is not None
        }
        try:
            return cls.model_validate({name: written[name] for name in own if name in written} | {"declared": declared})
        except ValidationError as error:
            raise _located(path, (), error) from error


def _declared_section(path: Path, name: str, written: object, declaration: Declaration) -> Declared:
    column = declaration.columns[name]
    try:
        section = section_of(column).model_validate(written)
    except ValidationError as error:
        raise _located(path, (name,), error) from error
    try:
        check_section(section, column)
    except ValueError as error:
        raise _invalid(path, name, str(error), written) from error
    return section


def _located(path: Path, above: tuple[str, ...], error: ValidationError) -> BadConfigError:
    """The first error, with its key in the file."""
    first = error.errors()[0]
    key = ".".join(map(str, (*above, *first["loc"])))
    return _invalid(path, key, first["msg"].removeprefix("Value error, "), first["input"])


def _invalid(path: Path, key: str, expected: str, got: object) -> BadConfigError:
    quotes = "; YAML reads yes, no and 1 as text only in quotes" if isinstance(got, int) else ""
    return BadConfigError(
        f"{path}: {key or 'the whole file'}", expected=expected, got=repr(got) if key else "",
        hint=f"docs/data.md has the reference of mapping keys{quotes}",
    )  # fmt: skip
