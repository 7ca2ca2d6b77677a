"""Text through a model into a store, or straight into training.

The package is not called ``capture``, because ``lensbench.capture`` is its function.
"""

from lensbench.harvest.chats import read_chats
from lensbench.harvest.live import LiveSource, live_source
from lensbench.harvest.run import capture
from lensbench.harvest.sequences import SequenceSource, sequence_source
from lensbench.harvest.text import Text, read_text

__all__ = [
    "LiveSource",
    "SequenceSource",
    "Text",
    "capture",
    "live_source",
    "read_chats",
    "read_text",
    "sequence_source",
]
