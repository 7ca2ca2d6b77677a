"""A head taken out on the Attention page: by hand, with a control, in words where it cannot be."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.app.driver import open_page, words
from tests.app.tiny_root import TEXTS, Root, tiny_root

__all__ = ["tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_change_is_that_of_the_model_with_the_heads_columns_at_zero(tiny_root: Root) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lensbench.app.workflows.attention import AttentionAsk
    from lensbench.app.workflows.head_ablation import ablate_head

    found = ablate_head(AttentionAsk(model=str(tiny_root.model), text=TEXTS[0]), 1, 2)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tiny_root.model)(TEXTS[0]).input_ids])
    module = AutoModelForCausalLM.from_pretrained(tiny_root.model).eval()
    with torch.no_grad():
        plain = module(ids).logits[0].log_softmax(-1)
        out = module.model.layers[1].self_attn.o_proj.weight
        width = out.shape[1] // module.config.num_attention_heads
        out[:, 2 * width : 3 * width] = 0
        gone = module(ids).logits[0].log_softmax(-1)
    wanted = (plain.exp() * (plain - gone)).sum(-1).numpy()
    mine = found.frame.loc[found.frame["without"] == "head 1.2", "kl"].to_numpy()
    np.testing.assert_allclose(mine, wanted, atol=1e-5)
    assert wanted.max() > 1e-4, "the head does something"
    assert "1.2" not in found.others
    assert len(set(found.others)) == 8


def test_a_switch_shows_it_with_its_control_and_its_code_draws_it_again(
    monkeypatch, tiny_root: Root
) -> None:
    query = {"from": "My own text", "model": str(tiny_root.model), "text": TEXTS[0]}
    page = open_page(monkeypatch, tiny_root.folder, "attention", head="0.1", **query)
    n = len(page.get("plotly_chart"))
    page.toggle(key="ablate").set_value(True).run()
    assert not page.exception
    assert not page.error
    assert len(page.get("plotly_chart")) == n + 1
    assert "Control: heads" in words(page)
    assert "without 0.1" in page.dataframe[-1].value.columns
    code = next(c.value for c in page.code if "ablate_head(" in c.value)
    *lines, last = code.splitlines()
    space: dict[str, Any] = {}
    exec("\n".join([*lines, f"figure = {last}"]), space)
    assert len(space["figure"].data) == 3


def test_a_head_that_is_not_there_is_told_in_words(tiny_root: Root) -> None:
    from lensbench.app.workflows.attention import AttentionAsk
    from lensbench.app.workflows.head_ablation import ablate_head
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"no head 7\.0"):
        ablate_head(AttentionAsk(model=str(tiny_root.model), text=TEXTS[0]), 7, 0)
