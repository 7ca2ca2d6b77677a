"""``lensbench.worlds.atlas``: English-like text whose every label and probability is known."""

from lensbench.worlds.atlas.corpus import Corpus, write_jsonl
from lensbench.worlds.atlas.world import SPLITS, Atlas, Questions, Split

__all__ = ["SPLITS", "Atlas", "Corpus", "Questions", "Split", "write_jsonl"]
