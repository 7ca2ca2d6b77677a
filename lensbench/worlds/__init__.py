"""Generators of text with known ground truth.

``lensbench.worlds.atlas`` (sentences: ``Atlas(seed=0).sample(8000, "all", seed=1)``), ``desk``
(questions of which some must be refused: ``Desk(seed=0).prompts(200).texts``), ``othello`` (games)
and ``translate``; ``load_model`` opens a model trained on each.
"""
