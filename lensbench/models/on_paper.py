"""Which sites a model has, read off its ``config.json``: no weight is opened.

For a refusal before a large model is read. The sites are those of the very modules that would be
filled, built without memory (on torch's ``meta`` device), so they are those of the opened model.
"""

from pathlib import Path
from typing import Any

import torch

from lensbench.models.disk import bundled_models, revision_folder
from lensbench.models.families import architecture_of
from lensbench.models.inventory import sites_of
from lensbench.sites import Site


def sites_on_paper(source: str, revision: str | None = None) -> tuple[Site, ...] | None:
    """Sites of a bundled model or a local folder; None where it is neither, or cannot be told.

    What is wrong with a folder is said by :func:`lensbench.load_model`, which reads all of it.

    Raises:
        MissingDataError: no such revision.
        UnknownNameError, ConfigError: an architecture that lensbench does not know.
    """
    folder = bundled_models().get(source) or Path(source)
    if not (folder / "config.json").is_file():
        return None
    where = revision_folder(folder, revision)
    module = _empty(where)
    return None if module is None else sites_of(module, architecture_of(module.config))


def _empty(folder: Path) -> Any:
    """The modules of a model without its weights; None where transformers cannot make them."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # no config of transformers, or code of its own
        return None
    opener = getattr(transformers, f"AutoModelFor{architecture_of(config).auto}")
    with torch.device("meta"):
        return opener.from_config(config)
