"""The registry: one line a method. Names resolve here, or as ``package.module:Class`` for methods of one's own."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from fewmask.errors import ConfigError, did_you_mean, traced
from fewmask.method import Method

METHODS: dict[str, str] = {
    "supervised": "fewmask.methods.supervised:Supervised",
    "mean_teacher": "fewmask.methods.mean_teacher:MeanTeacher",
    "fixmatch": "fewmask.methods.fixmatch:FixMatch",
    "cps": "fewmask.methods.cps:CPS",
    "ucc": "fewmask.methods.ucc:UCC",
    "u2pl": "fewmask.methods.u2pl:U2PL",
    "dars": "fewmask.methods.dars:DARS",
    "three_stage": "fewmask.methods.three_stage:ThreeStage",
    "self_training": "fewmask.methods.self_training:SelfTraining",
    "cbst": "fewmask.methods.cbst:CBST",
    "st_plus_plus": "fewmask.methods.st_plus_plus:STPlusPlus",
}


def resolve(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: a key of ``METHODS``, or ``package.module:Class``.

    Raises:
        ConfigError: there is no such method, its module cannot be imported (with the line where that ended), or the
            class is not a Method.
    """
    path = METHODS.get(name, name)
    if ":" not in path:
        raise ConfigError(f"unknown method {name!r}", where="method.name", todo=did_you_mean(name, METHODS))
    module, _, attribute = path.partition(":")
    if name not in METHODS and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` would find it; last, so that it hides nothing
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"method {name!r} cannot be imported: {traced(error, module)}", where="method.name",
            todo="give it as package.module:Class, importable from here",
        ) from error  # fmt: skip
    except Exception as error:  # whatever somebody's module raises while it is loaded
        what = f"method {name!r} cannot be imported: {traced(error, module)}"
        raise ConfigError(what, where="method.name", todo="mend it there") from error
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ConfigError(f"{name!r} is not a fewmask.Method", where="method.name", todo="subclass fewmask.Method")
    return cls
