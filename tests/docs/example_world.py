"""The names that examples in docstrings use, each made when one asks for it and then kept."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

SITE = "blocks.3.resid_post"
TEXT = "Alice the baker lives in Lima ."
MODULES = {
    "lensbench": "lensbench",
    "saes": "lensbench.saes",
    "probes": "lensbench.probes",
    "prompts": "lensbench.prompts",
    "plots": "lensbench.plots",
    "interventions": "lensbench.interventions",
    "experts": "lensbench.interventions.experts",
    "acceleration": "lensbench.interventions.acceleration",
    "np": "numpy",
    "pd": "pandas",
    "torch": "torch",
}


class ExampleWorld:
    """``world["store"]`` is the store of the examples; a name nobody made up is None.

    Examples may write into the folder they run in; what they share lies in ``folder``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, {}

    def __contains__(self, name: str) -> bool:
        return name in MODULES or name in MAKERS

    def __getitem__(self, name: str) -> Any:
        if name in MODULES:
            return import_module(MODULES[name])
        if name not in self._made:
            self._made[name] = MAKERS[name](self)
        return self._made[name]

    def path(self, name: str) -> str:
        """A place for something that is shared."""
        return str(self._folder / name)


def _model(name: str) -> Callable[[ExampleWorld], Any]:
    return lambda world: world["lensbench"].load_model(name, certify=False)


def _frame(_: ExampleWorld) -> Any:
    """Two layers, three positions; a number and a word each."""
    pandas = import_module("pandas")
    places = [(layer, position) for layer in range(2) for position in range(3)]
    return pandas.DataFrame(
        {
            "id": [f"{layer}.{position}" for layer, position in places],
            "layer": [layer for layer, _ in places],
            "position": [position for _, position in places],
            "value": [0.1, -0.4, 0.9, 0.3, 0.0, -0.2],
            "word": ["the", "cat", "sat"] * 2,
            "x": 0,
            "y": 0,
        }
    )


def _tokenizer(_: ExampleWorld) -> Any:
    """Of bytes, trained on the wordings of the prompt tasks."""
    from tests.tokenizers_for_chat import byte_level
    from tests.unit.test_prompts import CORPUS

    return byte_level(None, corpus=CORPUS, size=2600)


def _documents(_: ExampleWorld) -> Any:
    from lensbench.worlds.atlas import Atlas

    return Atlas(seed=0).sample(120, "all", seed=1)


def _store(world: ExampleWorld) -> Any:
    return world["lensbench"].capture(
        world["model"], world["documents"], profile="resid", out=world.path("acts"), layout="pad"
    )


def _runs(world: ExampleWorld) -> Any:
    sweep = {
        "train": {"tokens": 4096, "batch": 256},
        "sweep": [{"architecture": "topk", "d_sae": 64, "k": [4, 8], "site": SITE}],
    }
    return world["saes"].train(world["store"], sweep, out=world.path("run"), progress=False)


def _x(world: ExampleWorld) -> Any:
    return world["torch"].from_numpy(world["store"].rows(SITE, slice(0, 1000)).copy()).float()


def _rows(world: ExampleWorld) -> Any:
    """Two labels of the rows of ``x``."""
    labels = {"first": (world["x"][:, 0] > 0).numpy(), "second": (world["x"][:, 1] > 0).numpy()}
    return world["saes"].label_rows(labels)


def _desk(_: ExampleWorld) -> Any:
    from lensbench.worlds.desk import Desk

    return Desk(seed=0).prompts(40, "heldout", seed=1, of="questions")


def _entities(world: ExampleWorld) -> Any:
    names = ["Alice", "Carl", "Emma", "Hugo", "Sarah", "Conrad", "Anna", "Victor"]
    texts = [f"{name} the baker lives in" for name in names]
    first = [i < 4 for i in range(len(names))]
    return world["interventions"].entity_prompts(world["model"], texts, names, first)


def _data(world: ExampleWorld) -> Any:
    labels = {"is_name": world["documents"].labels["is_name"]}
    return world["probes"].probe_data(world["store"], labels, sites=[SITE])


def _own(world: ExampleWorld) -> Any:
    starts = ["Alice the baker", "Every day the", "The king that", "Hugo lives in"]
    return world["acceleration"].capture_own(
        world["early"], starts, world.path("own"), max_new_tokens=12
    )


MAKERS: dict[str, Callable[[ExampleWorld], Any]] = {
    "model": _model("atlas-dense"),
    "moe": _model("atlas-moe"),
    "early": _model("atlas-early"),
    "translate": _model("atlas-translate"),
    "othello": _model("othello"),
    "text": lambda _: TEXT,
    "frame": _frame,
    "tokenizer": _tokenizer,
    "documents": _documents,
    "store": _store,
    "runs": _runs,
    "run": lambda world: world["runs"][0],
    "sae": lambda world: world["run"].sae,
    "x": _x,
    "acts": lambda world: world["sae"].encode(world["x"]),
    "rows": _rows,
    "latents": lambda world: world["saes"].encode_store(
        world["run"], world["store"], out=world.path("latents")
    ),
    "desk": _desk,
    "desk_ids": lambda world: [list(row) for row in world["desk"].tokens],
    "desk_refusals": lambda world: list(world["desk"].refusals.values()),
    "entities": _entities,
    "tuned": lambda world: world["probes"].train_tuned_lens(
        world["store"], world["model"], {"steps": 3, "tokens_per_step": 256}
    ),
    "data": _data,
    "numbers": lambda world: world["probes"].atlas_numbers(world["model"], n=600),
    "memory": lambda world: world["probes"].ItemMemory.random(
        ["France", "Paris", "Peru", "Lima", "euro"], dim=1024
    ),
    "pairs": lambda world: world["prompts"].agreement(world["model"], n=8, seed=0),
    "own": _own,
}
"""Beyond the modules: bundled models, a captured store and what is made from it, all tiny."""
