"""slabench: benchmarks around Self-supervised Label Augmentation (SLA; Lee, Hwang and Shin, ICML 2020).

The public names are resolved lazily: `import slabench` loads neither torch nor numpy.

>>> import slabench
>>> recipe = slabench.load_recipe("fewshot/standard")      # doctest: +SKIP
>>> records = slabench.run(recipe, seeds=[0])              # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slabench.core.versions import __version__

_PUBLIC = {
    "Recipe": "slabench.recipes.fewshot:Recipe",
    "load_recipe": "slabench.recipes:load_recipe",
    "plan": "slabench.runner.trials:plan",
    "run": "slabench.runner:run",
    "compare": "slabench.comparison:compare",
    "reproduce": "slabench.reproduction.running:reproduce",
    "plan_table": "slabench.reproduction.planning:plan_table",
    "leaderboard": "slabench.ranking.rows:leaderboard",
    "SLA": "slabench.sla.wrapper:SLA",
    "load_data": "slabench.data:load",
    "EpisodeSampler": "slabench.episodes.sampler:EpisodeSampler",
    "load_episodes": "slabench.episodes.files:load_episodes",
    "TransformSet": "slabench.sla.transforms:TransformSet",
    "transform_set": "slabench.sla.transforms:transform_set",
    "function_set": "slabench.sla.transforms:function_set",
    "Head": "slabench.heads:Head",
    "Backbone": "slabench.backbones:Backbone",
    "dataset": "slabench.data.plugin_dataset:dataset",
    "load_plugin": "slabench.plugins:load_plugin",
    "check": "slabench.conformance:check",
    "HEADS": "slabench.core.registry:HEADS",
    "BACKBONES": "slabench.core.registry:BACKBONES",
    "LOSSES": "slabench.core.registry:LOSSES",
    "TRANSFORMS": "slabench.core.registry:TRANSFORMS",
    "DATASETS": "slabench.core.registry:DATASETS",
    "SlabenchError": "slabench.core.errors:SlabenchError",
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
    from slabench.backbones import Backbone as Backbone
    from slabench.comparison import compare as compare
    from slabench.conformance import check as check
    from slabench.core.errors import SlabenchError as SlabenchError
    from slabench.core.registry import BACKBONES as BACKBONES
    from slabench.core.registry import DATASETS as DATASETS
    from slabench.core.registry import HEADS as HEADS
    from slabench.core.registry import LOSSES as LOSSES
    from slabench.core.registry import TRANSFORMS as TRANSFORMS
    from slabench.data import load as load_data  # noqa: F401
    from slabench.data.plugin_dataset import dataset as dataset
    from slabench.episodes.files import load_episodes as load_episodes
    from slabench.episodes.sampler import EpisodeSampler as EpisodeSampler
    from slabench.heads import Head as Head
    from slabench.plugins import load_plugin as load_plugin
    from slabench.ranking.rows import leaderboard as leaderboard
    from slabench.recipes import load_recipe as load_recipe
    from slabench.recipes.fewshot import Recipe as Recipe
    from slabench.reproduction.planning import plan_table as plan_table
    from slabench.reproduction.running import reproduce as reproduce
    from slabench.runner import run as run
    from slabench.runner.trials import plan as plan
    from slabench.sla.transforms import TransformSet as TransformSet
    from slabench.sla.transforms import function_set as function_set
    from slabench.sla.transforms import transform_set as transform_set
    from slabench.sla.wrapper import SLA as SLA
