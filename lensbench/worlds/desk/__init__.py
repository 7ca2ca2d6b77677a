"""``lensbench.worlds.desk``: questions of which some must be refused, beside plain sentences."""

from lensbench.worlds.desk.prompts import DeskPrompts
from lensbench.worlds.desk.world import SPLITS, VARIANTS, Desk, Split, Variant

__all__ = ["SPLITS", "VARIANTS", "Desk", "DeskPrompts", "Split", "Variant"]
