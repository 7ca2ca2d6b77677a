"""Text of the library's own making is no padding, whatever its ids: exits, studies, experts."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions
from lensbench.errors import ConfigError
from lensbench.interventions import acceleration, experts
from lensbench.plan import Plan
from lensbench.tokens import meant

PROMPTS = ("The capital of Peru is", "Alice the baker lives in", "The river that runs by")
"""The last two end with two words in a row that this model does not know, which is text."""


def test_a_row_that_is_meant_has_no_padding() -> None:
    row = meant(np.array([0, 0, 5, 0, 0]))
    assert row.ids.tolist() == [[0, 0, 5, 0, 0]]
    assert row.real.all()


def test_own_text_of_prompts_that_look_padded_is_captured_and_verified(tmp_path: Path) -> None:
    model = lensbench.load_model("atlas-early", certify=False)
    rows = [model.tokens(text).ids[0].tolist() for text in PROMPTS]
    model.run(torch.tensor([rows[-1]]))
    rows[-1] += [model.tokenizer.eos_token_id] * 2
    with pytest.raises(ConfigError, match="twice in a row"):
        model.run(torch.tensor([rows[-1]]))  # what the prompt looks like without its mask
    store = acceleration.capture_own(model, rows, tmp_path / "own", 6)
    found = acceleration.acceleration_study(model, store, ["fixed_exit"])
    checked = found.verify(model)
    assert all(row["held"] for row in checked.rows)
    assert checked.table.prompts == tuple(map(tuple, rows))


def test_routing_counts_padding_tokens_that_a_text_ends_with() -> None:
    model = lensbench.load_model("atlas-moe", certify=False)
    pad = int(model.tokenizer.pad_token_id)
    plain = model.tokens(PROMPTS[0]).ids[0].tolist()
    row = [*plain, pad, pad]
    found = experts.routing(model, [row])
    assert found.n_tokens.tolist() == [len(row)]
    both = experts.routing(model, [row, plain[:3]])
    assert both.counts[0].tolist() == found.counts[0].tolist()
    with pytest.raises(ConfigError, match="padding token"):
        experts.routing(model, np.array([row]))  # an array may be what a tokenizer padded
    says = experts.Says(("never said",), new_tokens=2)
    assert says(model, [row], Plan()) == ["no"]
    said = interventions.generate_beside(model, [row], Plan(), 2)
    assert said.texts() == said.texts("steered")
