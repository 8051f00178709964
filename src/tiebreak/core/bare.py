"""Polars' bare columns, below `pl.Series` and `pl.DataFrame`.

Methods of those take 1 to 50 µs where what they do to a few rows takes a tenth of that. This is
the one place that reads what Polars does not promise to keep.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars._utils.wrap import wrap_df, wrap_s

Column = Any  # a bare column

_FRAME = cast("Any", type(pl.DataFrame()._df))
_COLUMN = cast("Any", type(pl.Series()._s))
_MAKERS: Mapping[pl.DataType, Callable[..., Column]] = {
    pl.String(): _COLUMN.new_str,
    pl.Int64(): _COLUMN.new_opt_i64,
    pl.Float64(): _COLUMN.new_opt_f64,
    pl.Boolean(): _COLUMN.new_opt_bool,
}


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


def maker(type_: pl.DataType) -> Callable[[str, list[Any]], Column]:
    """What makes a bare column of this type, by its name and its values or None."""
    if type_ == pl.List(pl.String()):
        return _lists
    make = _MAKERS.get(type_)
    if make is None:
        return lambda name, values: _COLUMN.new_from_any_values_and_dtype(name, values, type_, True)
    return lambda name, values: make(name, values, True)


def _lists(name: str, values: list[Sequence[str] | None]) -> Column:
    """Lists of texts, each cut out of one column of all their texts."""
    given = [each for each in values if each is not None]
    texts = _COLUMN.new_str("", list(chain.from_iterable(given)), True)
    lasts = list(accumulate(map(len, given), initial=0))
    cut = map(texts.slice, lasts, map(len, given))
    lists = [None if each is None else next(cut) for each in values]
    # The first one, which is left out again, gives the type where all are null.
    return _COLUMN.new_series_list(name, [texts.slice(0, 0), *lists], True).slice(1, len(values))


def converted(column: Column, type_: pl.DataType) -> Column:
    """The bare column as this type; raises where a value has no equal there."""
    return column.cast(type_, True, False)


def framed(columns: Sequence[Column]) -> pl.DataFrame:
    """Bare columns of different names and one height as a frame."""
    return wrap_df(_FRAME(columns))


def sliced(column: pl.Series, names: Sequence[str], height: int) -> pl.DataFrame:
    """A frame of columns that stand end to end in one, (height,) each."""
    whole = bare(column)
    parts = [whole.slice(i * height, height) for i in range(len(names))]
    for part, name in zip(parts, names, strict=True):
        part.rename(name)
    return framed(parts)


def stacked(columns: Sequence[pl.Series]) -> NDArray[np.bool_]:
    """Columns without null beside each other, (n, columns), booleans."""
    return _array([bare(each) for each in columns], columns[0].len() if columns else 0, np.bool_)


def chosen(frame: pl.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """Numbers and booleans of these different names, (n, names); null is NaN."""
    return _array(frame._df.select(names).get_columns(), frame.height, np.float64)


def _array(columns: Sequence[Column], height: int, type_: type[Any]) -> NDArray[Any]:
    """Bare columns beside each other; a whole frame would be handed to a thread of Polars."""
    out = np.empty((len(columns), height), dtype=type_)
    for row, column in zip(out, columns, strict=True):
        row[:] = column.to_numpy(writable=False, allow_copy=True)
    return out.T
