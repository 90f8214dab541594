"""Experiments as notebooks: parameters in, a run folder out.

The names that notebooks and scripts need are here; each is loaded when it is asked for.
"""

from importlib import import_module

_NAMES = {
    "write_metrics": "runs",
    "read_metrics": "runs",
    "list_runs": "runs",
    "hardware": "machine",
    "peak_memory_mb": "machine",
    "run_notebook": "runner",
    "live_line": "recorder",
    "keep_result": "results",
    "read_result": "results",
    "make_sweep": "sweeps",
    "run_sweep": "executors",
    "live_table": "executors",
    "load_runs": "tables",
    "summarise": "tables",
    "show_curves": "compare",
}
__all__ = list(_NAMES)


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
