"""Reads a joblib pickle, naming only classes that models are made of; runs in the cage.

The list keeps honest files apart from others early, with a clear reason. It is the cage that
holds what slips through.
"""

from __future__ import annotations

import importlib
import io
import sys
from types import SimpleNamespace
from typing import Any

import joblib.numpy_pickle as joblib_pickle
import joblib.numpy_pickle_utils as joblib_files

from tiebreak.training.legacy.refusals import Refused

_MODELS = ("sklearn", "xgboost", "lightgbm")
_PLAIN: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        {"bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object"}
        | {"range", "set", "slice", "str", "tuple", "bytes"}
    ),
    "__builtin__": frozenset({"object", "set", "frozenset", "bytearray", "slice"}),
    "collections": frozenset({"OrderedDict", "defaultdict"}),
    "copyreg": frozenset({"_reconstructor"}),
    "copy_reg": frozenset({"_reconstructor"}),
    "_codecs": frozenset({"encode"}),
    "joblib.numpy_pickle": frozenset({"NumpyArrayWrapper"}),
    "numpy": frozenset(
        {"bool", "bool_", "dtype", "float32", "float64", "int32", "int64", "intc", "ndarray"}
    ),
    "numpy.random._pickle": frozenset(
        {"__randomstate_ctor", "__bit_generator_ctor", "__generator_ctor"}
    ),
    "numpy.random._mt19937": frozenset({"MT19937"}),
    "numpy.random._pcg64": frozenset({"PCG64"}),
    "numpy.random.bit_generator": frozenset({"SeedSequence", "__pyx_unpickle_SeedSequence"}),
    **{
        f"numpy.{core}.multiarray": frozenset({"_reconstruct", "scalar"})
        for core in ("core", "_core")
    },
    **{f"numpy.{core}.numeric": frozenset({"_frombuffer"}) for core in ("core", "_core")},
}


def read(data: bytes) -> Any:
    """The object in the file; raises Refused."""
    loader: Any = joblib_pickle
    # object arrays inside a joblib file are pickles of their own
    loader.pickle = SimpleNamespace(load=_load)
    files: Any = joblib_files
    source = io.BytesIO(data)
    with files._validate_fileobject_and_memmap(source, "", None) as (file, _):
        return _load(file)


def _load(file: Any) -> Any:
    return _Plain("", file, True).load()


class _Plain(joblib_pickle.NumpyUnpickler):  # pyright: ignore[reportUntypedBaseClass]
    def find_class(self, module: str, name: str) -> Any:
        """The class of this name, where models are made of it."""
        top = module.partition(".")[0]
        if top in _MODELS and "." not in name:
            return _of_model(module, name)
        if name not in _PLAIN.get(module, ()):
            raise Refused(f"it holds {module}.{name}, which no model is made of")
        return getattr(importlib.import_module(module), name)


def _of_model(module: str, name: str) -> Any:
    loaded = sys.modules.get(module)
    found = getattr(loaded, name, None)
    if not isinstance(found, type) and not name.startswith("__pyx_unpickle_"):
        raise Refused(f"it holds {module}.{name}, which is no class of a model that can be read")
    if found is None:
        raise Refused(f"it holds {module}.{name}, which the libraries here do not know")
    return found
