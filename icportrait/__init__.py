"""Portraits that keep who a person is while view and light change: IC-Portrait as readable notebooks.

The names of a first script are here; each is loaded when it is asked for. Everything else lives in five wings:
`world`, `dataset`, `model`, `training` and `evaluation`, with the `bench` beside them.
"""

import os
from importlib import import_module

__version__ = "0.1.0"

# OpenMP threads that wait for work spin, for so long that they keep other processes from working; threads that sleep at
# once are slow on an idle machine. A short spin has the best of both. It is read when torch is imported.
IDLE_THREADS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
if "OMP_WAIT_POLICY" not in os.environ:
    for _name, _value in IDLE_THREADS.items():
        os.environ.setdefault(_name, _value)

_NAMES = {
    "ICPortraitError": "files",
    "load_image": "images",
    "save_image": "images",
    "show_images": "images",
    "load_profiles": "dataset.profiles",
    "load_base": "model.base",
    "MatchingNet": "model.matching",
    "AppearanceNet": "model.appearance",
    "ICPortraitPipeline": "model.pipeline",
    "load_pipeline": "model.pipeline",
    "train": "training.loop",
    "run_notebook": "bench.runner",
    "write_metrics": "bench.runs",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
