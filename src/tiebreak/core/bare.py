"""Polars' bare columns, below `pl.Series` and `pl.DataFrame`.

Methods of those take 1 to 50 µs where what they do to a few rows takes a tenth of that. This is
the one place that reads what Polars does not promise to keep.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import polars as pl
from numpy.typing import NDArray
from polars._utils.wrap import wrap_df, wrap_s

Column = Any  # a bare column

_FRAME = cast("Any", type(pl.DataFrame()._df))


def bare(series: pl.Series) -> Column:
    """The bare column of a series."""
    return series._s


def bare_columns(frame: pl.DataFrame) -> list[Column]:
    """The bare columns of a frame."""
    return frame._df.get_columns()


def named(column: Column, name: str, height: int) -> pl.Series:
    """The column under this name, (height,); one value is that of every row."""
    own = column.clone() if column.len() == height else column.new_from_index(0, height)
    own.rename(name)
    return wrap_s(own)


def sliced(column: pl.Series, names: Sequence[str], height: int) -> pl.DataFrame:
    """A frame of columns that stand end to end in one, (height,) each."""
    whole = bare(column)
    parts = [whole.slice(i * height, height) for i in range(len(names))]
    for part, name in zip(parts, names, strict=True):
        part.rename(name)
    return wrap_df(_FRAME(parts))


def stacked(columns: Sequence[pl.Series]) -> NDArray[Any]:
    """Columns of different names beside each other, (n, columns), in the type that they share."""
    return _array(_FRAME([bare(each) for each in columns]))


def chosen(frame: pl.DataFrame, names: Sequence[str]) -> NDArray[Any]:
    """Numbers and booleans of these different names, (n, names), null as NaN."""
    array = _array(frame._df.select(names))
    if array.dtype == object:  # where nulls are among booleans, and no floats
        array = frame.select(pl.col(names).cast(pl.Float64)).to_numpy()
    return array


def _array(frame: Any) -> NDArray[Any]:
    return frame.to_numpy("fortran", writable=False, allow_copy=True)
