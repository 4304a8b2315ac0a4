"""Import Feast without two parts that take most of the time of its import and that no job uses.

* Feast imports PyTorch for `to_tensor`, when it is installed: about 1.3 s of CPU.
* Feast's classes are compiled again with run-time checks of argument types (typeguard): about 2.6 s. `python -O` skips
  them too.

Together the import takes 1.4 s of CPU instead of 5.3 s. The first import of Feast in a process decides: jobs import it
through `fraud.features.feast_store`, which imports this module first. A process that has imported Feast itself, such as
the `feast` command, keeps what it has.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typeguard


@contextmanager
def _without_torch() -> Iterator[None]:
    """`import torch` fails inside the block, unless it was imported before."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment] # the documented way to make an import fail
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextmanager
def _without_type_checks() -> Iterator[None]:
    """`typeguard.typechecked` leaves classes and functions as they are inside the block."""
    original = typeguard.typechecked
    typeguard.typechecked = _unchanged
    try:
        yield
    finally:
        typeguard.typechecked = original


def _unchanged(target: Any = None, **_options: Any) -> Any:  # noqa: ANN401 - any class or function
    return _unchanged if target is None else target


with _without_torch(), _without_type_checks():
    from feast import FeatureStore, RepoConfig

__all__ = ["FeatureStore", "RepoConfig"]
