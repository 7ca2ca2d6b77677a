"""Dictionaries on disk, in the formats of the field: one module per format.

``files`` recognises a format, reads it into :class:`lensbench.saes.sae.SAE` and writes it;
``parts`` holds what the formats share. Our own is SAELens' (``sae_lens``).
"""

from lensbench.saes.formats.files import (
    FORMATS,
    FormatName,
    WrittenFormat,
    keep,
    load,
    recognise,
    save,
)
from lensbench.saes.formats.sae_lens import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE

__all__ = [
    "CONFIG_FILE",
    "FORMATS",
    "FORMAT_VERSION",
    "WEIGHTS_FILE",
    "FormatName",
    "WrittenFormat",
    "keep",
    "load",
    "recognise",
    "save",
]
