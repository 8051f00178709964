"""Backtest: a changed policy over a window of history, beside what was decided then."""
