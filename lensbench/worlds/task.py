"""What training asks of a world: a fresh model, the loss of every step, scores, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lensbench.worlds.recipe import TrainConfig, WorldTrainConfig


@runtime_checkable
class Task(Protocol):
    """One world's side of a training run."""

    config: Any
    speaks: str
    """What the world can say; two runs with other words are other runs."""

    def new_model(self) -> Any:
        """A freshly initialised transformers model."""
        ...

    def loss(self, model: Any, step: int) -> Tensor:
        """Mean loss in nats on the batch of ``step`` (from 0), a function of recipe and step."""
        ...

    def scores(self, model: Any) -> dict[str, float]:
        """A quick look at what the model can do."""
        ...

    def save_tokenizer(self, folder: Path) -> Path:
        """Write the tokenizer in the hub's format."""
        ...

    def write_card(self, folder: Path) -> Path:
        """Measure the finished model and write its card."""
        ...


def parse_recipe(settings: Mapping[str, Any]) -> TrainConfig:
    """The recipe of the model that ``settings`` names (the atlas where it names none).

    Raises:
        ConfigError: a key or a value that the recipe refuses.
    """
    return recipe_class(settings.get("model")).parse(settings)


def recipe_class(model: Any) -> type[TrainConfig]:
    """The config of the recipe of a bundled model (the atlas' for any other name)."""
    from lensbench.worlds.desk.recipe import MoeTrainConfig
    from lensbench.worlds.early_recipe import EarlyTrainConfig
    from lensbench.worlds.equal_recipe import EqualTrainConfig
    from lensbench.worlds.othello.recipe import OthelloTrainConfig
    from lensbench.worlds.refusing_recipe import RefusingTrainConfig
    from lensbench.worlds.translate.recipe import TranslateTrainConfig
    from lensbench.worlds.words.recipe import WordsTrainConfig

    kinds: dict[Any, type[TrainConfig]] = {
        "atlas-early": EarlyTrainConfig,
        "atlas-equal": EqualTrainConfig,
        "atlas-moe": MoeTrainConfig,
        "atlas-refusing": RefusingTrainConfig,
        "atlas-translate": TranslateTrainConfig,
        "othello": OthelloTrainConfig,
        "words": WordsTrainConfig,
    }
    return kinds.get(model, WorldTrainConfig)


def task_of(config: TrainConfig) -> Task:
    """The task of a recipe."""
    from lensbench.worlds.desk.recipe import MoeTrainConfig
    from lensbench.worlds.early_recipe import EarlyTrainConfig
    from lensbench.worlds.equal_recipe import EqualTrainConfig
    from lensbench.worlds.othello.recipe import OthelloTrainConfig
    from lensbench.worlds.refusing_recipe import RefusingTrainConfig
    from lensbench.worlds.translate.recipe import TranslateTrainConfig
    from lensbench.worlds.words.recipe import WordsTrainConfig

    if isinstance(config, MoeTrainConfig):
        from lensbench.worlds.desk.task import DeskTask

        return DeskTask(config)
    if isinstance(config, OthelloTrainConfig):
        from lensbench.worlds.othello.task import OthelloTask

        return OthelloTask(config)
    if isinstance(config, RefusingTrainConfig):
        from lensbench.worlds.refusing_task import RefusingTask

        return RefusingTask(config)
    if isinstance(config, TranslateTrainConfig):
        from lensbench.worlds.translate.task import TranslateTask

        return TranslateTask(config)
    if isinstance(config, WordsTrainConfig):
        from lensbench.worlds.words.task import WordsTask

        return WordsTask(config)
    if isinstance(config, EarlyTrainConfig):
        from lensbench.worlds.early_task import EarlyTask

        return EarlyTask(config)
    if isinstance(config, EqualTrainConfig):
        from lensbench.worlds.equal_task import EqualTask

        return EqualTask(config)
    from lensbench.worlds.atlas_task import AtlasTask

    return AtlasTask(config)  # pyright: ignore[reportArgumentType] - the only other recipe
