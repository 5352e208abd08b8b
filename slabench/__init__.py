"""slabench: benchmarks around Self-supervised Label Augmentation (SLA; Lee, Hwang and Shin, ICML 2020).

The public names are resolved lazily: `import slabench` loads neither torch nor numpy.

>>> import slabench
>>> recipe = slabench.load_recipe("fewshot/standard")      # doctest: +SKIP
>>> records = slabench.run(recipe, seeds=[0])              # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "slabench.recipe:Recipe",
    "load_recipe": "slabench.recipe:load_recipe",
    "plan": "slabench.runner:plan",
    "run": "slabench.runner:run",
    "compare": "slabench.results.comparison:compare",
    "reproduce": "slabench.reproduction.run:reproduce",
    "plan_table": "slabench.reproduction.plan:plan_table",
    "leaderboard": "slabench.api:leaderboard",
    "SLA": "slabench.sla.wrapper:SLA",
    "load_data": "slabench.data:load",
    "EpisodeSampler": "slabench.episodes:EpisodeSampler",
    "load_episodes": "slabench.episode_files:load_episodes",
    "TransformSet": "slabench.sla.transforms:TransformSet",
    "transform_set": "slabench.sla.transforms:transform_set",
    "function_set": "slabench.sla.transforms:function_set",
    "Head": "slabench.heads:Head",
    "Backbone": "slabench.backbones:Backbone",
    "dataset": "slabench.data.own:dataset",
    "load_plugin": "slabench.plugins:load_plugin",
    "check": "slabench.conformance:check",
    "HEADS": "slabench.registry:HEADS",
    "BACKBONES": "slabench.registry:BACKBONES",
    "LOSSES": "slabench.registry:LOSSES",
    "TRANSFORMS": "slabench.registry:TRANSFORMS",
    "DATASETS": "slabench.registry:DATASETS",
    "SlabenchError": "slabench.errors:SlabenchError",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slabench' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from slabench.api import leaderboard as leaderboard
    from slabench.backbones import Backbone as Backbone
    from slabench.conformance import check as check
    from slabench.data import load as load_data  # noqa: F401
    from slabench.data.own import dataset as dataset
    from slabench.episode_files import load_episodes  # noqa: F401
    from slabench.episodes import EpisodeSampler  # noqa: F401
    from slabench.errors import SlabenchError  # noqa: F401
    from slabench.heads import Head as Head
    from slabench.plugins import load_plugin as load_plugin
    from slabench.recipe import Recipe, load_recipe  # noqa: F401
    from slabench.registry import BACKBONES, HEADS  # noqa: F401
    from slabench.registry import DATASETS as DATASETS
    from slabench.registry import LOSSES as LOSSES
    from slabench.registry import TRANSFORMS as TRANSFORMS
    from slabench.reproduction.plan import plan_table  # noqa: F401
    from slabench.reproduction.run import reproduce  # noqa: F401
    from slabench.results.comparison import compare  # noqa: F401
    from slabench.runner import plan, run  # noqa: F401
    from slabench.sla.transforms import TransformSet, transform_set  # noqa: F401
    from slabench.sla.transforms import function_set as function_set
    from slabench.sla.wrapper import SLA as SLA
