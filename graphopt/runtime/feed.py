"""What a caller passes to a compiled model, made into arrays before their types and shapes are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import InputError, did_you_mean


def require_names(feed: object, names: Sequence[str]) -> None:
    """Refuse what is no mapping from the names of inputs.

    Raises:
        InputError: no mapping, a key that is no text, an unknown name, or one that is missing.
    """
    listed = f"inputs are {', '.join(names)}" if names else "the model has no inputs"
    if not isinstance(feed, Mapping):
        raise InputError(
            f"run takes arrays by input name, not {_kind(feed)}",
            hint=f"pass a dict such as {{{', '.join(f'{n!r}: array' for n in names)}}}",
        )
    for name in feed:
        if not isinstance(name, str):
            raise InputError(f"an input is named by {_kind(name)} ({name!r:.60})", hint=listed)
        if name not in names:
            raise InputError(f"there is no input {name!r}", hint=did_you_mean(name, names) or listed)


def as_array(name: str, given: object) -> npt.NDArray[Any]:
    """The array of an input.

    Raises:
        InputError: it is none and can't be made one, such as lists of different lengths.
    """
    if type(given) is np.ndarray:
        return given
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise InputError(f"input {name!r} is an array with masked elements", hint="fill them first: x.filled(value)")
    try:
        return np.asarray(given)
    except Exception as error:  # arrays of other libraries raise any class when they are converted
        raise InputError(
            f"input {name!r} is {_kind(given)} that can't be made an array: {error}",
            hint="pass a numpy array; lists must be nested evenly",
        ) from error


def _kind(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"
