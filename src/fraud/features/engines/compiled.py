"""The compiler of the engines' loops: plain Python over arrays, compiled by numba."""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Places = NDArray[np.int32]
"""Positions, counts and codes within a block of events."""
Floats = NDArray[np.float64]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call. The result is cached on disk if numba has a writable folder (NUMBA_CACHE_DIR).

    The cache is invalidated by changes of this file only, so constants of other files must be passed as arguments.
    """
    try:
        return cast("Callable[..., Any]", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast("Callable[..., Any]", numba.njit(nogil=True)(function))
