"""The compiler of the engines' loops: plain Python over arrays, compiled by numba."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Places = NDArray[np.int32]
"""Positions, counts and codes within a block of events."""
Floats = NDArray[np.float64]
_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(function: _Loop) -> _Loop:
    """Compile on the first call. The result is cached on disk if numba has a writable folder (NUMBA_CACHE_DIR).

    The cache is invalidated by changes of this file only, so constants of other files must be passed as arguments.
    """
    try:
        return cast("_Loop", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast("_Loop", numba.njit(nogil=True)(function))


def inlined(function: _Loop) -> _Loop:
    """For a function that a compiled function of the same file calls often: its code is copied into the caller.

    A call with arrays as arguments counts their references, which costs more than a few operations.
    """
    return cast("_Loop", numba.njit(inline="always", nogil=True)(function))
