"""How many images a recipe's training passes through the backbone: the one place that counts them.

Every copy under a transformation counts, as `images_seen` of a record does.
"""

from __future__ import annotations

from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe
from slabench.sla.transforms import transform_set


def copies_of(learner: str, objective: str, m: int) -> int:
    """Rows of the training batch for one image: M for objectives on transformed copies, else 1.

    Args:
        learner: `classifier`, in any suite, or one of episodes: the two have objectives of their own.
        objective: such as `sla`.
        m: size of the transformation set.
    """
    from slabench.sla import objectives  # imports torch, which comparing rows does not need

    if learner == "classifier":
        return objectives.classifier_objective(objective).n_copies(m)
    return objectives.objective(objective).n_copies(m)


def copies_per_image(recipe: Recipe | ClassifierRecipe) -> int:
    """`copies_of` a recipe's own objective and transformations."""
    learner = "classifier" if isinstance(recipe, ClassifierRecipe) else recipe.model.learner
    return copies_of(learner, recipe.sla.objective, transform_set(recipe.sla.transforms).M)


def images_per_step(recipe: Recipe | ClassifierRecipe, n_train: int | None = None, *, copies: int | None = None) -> int:
    """Images of one update (of a whole batch), copies counted.

    Args:
        recipe: of any suite and learner.
        n_train: training images; a batch has no more than there are. None where they are known to fill one.
        copies: in place of those of the recipe's own objective.
    """
    copies = copies_per_image(recipe) if copies is None else copies
    t = recipe.train
    if isinstance(recipe, ClassifierRecipe) or recipe.model.learner == "classifier":
        return copies * (t.batch_size if n_train is None else min(t.batch_size, n_train))
    shots = recipe.train_shots
    if recipe.model.learner == "maml":
        # The supports pass once an inner step, and once more with the queries that they normalise.
        shots *= recipe.maml.steps + (recipe.batch_norm == "support")
    return copies * recipe.train.episodes_per_step * recipe.train_ways * (shots + recipe.train.queries)


def steps_of(recipe: Recipe | ClassifierRecipe, n_train: int) -> int:
    """Updates of a training on `n_train` images; an epoch is ceil(n_train / batch size) of them."""
    if isinstance(recipe, Recipe):
        return recipe.train.steps
    return recipe.train.steps or (recipe.train.epochs or 0) * -(-n_train // recipe.train.batch_size)
