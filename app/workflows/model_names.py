"""One name for every model: bundled ones by name, folders by where they lie below the root."""

from pathlib import Path

from lensbench.app.workflows.finding import find
from lensbench.app.workflows.lenses import model_names


def models_shown(root: Path, stores: list[str]) -> dict[str, str]:
    """What a reader is shown -> what opens it: the package's, this folder's, those of stores."""
    folders = {m.relative_to(root).as_posix(): str(m) for m in find(root).models}
    names = model_names(stores)
    bundled = {name: name for name in names if not Path(name).is_absolute()}
    others = {name_in(root, name): name for name in names if Path(name).is_absolute()}
    return {**bundled, **others, **folders}


def name_in(root: Path, name: str) -> str:
    """The name of a model as pages of ``root`` show it: a folder below it without what is above."""
    path = Path(name)
    if not path.is_absolute() or not path.is_relative_to(root):
        return name
    return path.relative_to(root).as_posix()
