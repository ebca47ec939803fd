"""The fixtures of the process tests: a data folder, a finished run, and where output goes."""

from process.conftest import _cache, data, io, own_data, unbroken

__all__ = ["_cache", "data", "io", "own_data", "unbroken"]
