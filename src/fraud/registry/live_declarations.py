"""The feature declarations that are in use: those of the versions with an alias."""

from fraud.core.declaration import Declaration
from fraud.registry import model_versions
from fraud.registry.mlflow_client import registry_errors
from fraud.registry.training_runs import TrainingRuns
from fraud.settings import Settings


def live_declarations(settings: Settings) -> list[Declaration]:
    """The declarations of the versions with an alias, in order of version, each once.

    Category lists are filled in; two declarations that differ in their lists only are one. Empty without a version.
    Raises RefusedError when a version's declaration cannot be read, UnavailableError when the registry does not answer.
    """
    with registry_errors():
        runs = TrainingRuns(settings)
        aliased = runs.aliased()
        versions = [version for version in runs.versions() if str(version.version) in aliased]
    plans = [model_versions.plan_of(settings, version) for version in versions]
    return list({plan.hash: plan.declaration for plan in plans}.values())
