"""The model versions behind recorded answers: a version's declaration says what its records contain."""

from collections.abc import Mapping
from typing import Any, Final

from fraud.errors import RefusedError
from fraud.registry.model_versions import ModelArtifact, fetch
from fraud.settings import Settings

RULE: Final = "rule"
"""model_version of an answer that serving computed without a model."""
BY_RULE: Final = "answered by the default rule"
OTHER_VERSION: Final = "the registry has another version of that number"


class AnsweringVersions:
    """Versions by number, each fetched once. Raises UnavailableError when the registry does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: dict[str, ModelArtifact | RefusedError] = {}

    def fetched(self, number: str) -> ModelArtifact:
        """The version of this number. Raises RefusedError when it is not available."""
        if number not in self._found:
            try:
                self._found[number] = fetch(self._settings, int(number))
            except RefusedError as error:
                self._found[number] = error
        found = self._found[number]
        if isinstance(found, RefusedError):
            raise found
        return found

    def of(self, record: Mapping[str, Any]) -> ModelArtifact | str:
        """The version that gave an answer, or the reason why it is not known. `record` is a prediction record or a row
        of `scores`."""
        if record["model_version"] == RULE:
            return BY_RULE
        try:
            found = self.fetched(record["model_version"])
        except RefusedError as error:
            return error.message
        return found if found.feature_hash == record["feature_hash"] else OTHER_VERSION
