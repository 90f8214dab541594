"""Experiments as notebooks: parameters in, a run folder out. The names that an experiment's own cells need are here."""

from importlib import import_module

_NAMES = {"write_metrics": "runs", "read_metrics": "runs", "run_notebook": "runner", "read_result": "results"}
__all__ = list(_NAMES)


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
