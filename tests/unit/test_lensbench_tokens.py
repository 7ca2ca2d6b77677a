import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError
from lensbench.tokens import Tokens, as_tokens


def test_ragged_rows_are_padded_on_the_left_with_a_mask() -> None:
    batch = as_tokens([[5, 6, 7], [8]], pad_id=0)
    assert batch.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True] * 3, [False, False, True]]
    assert batch.positions().tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("value", [[4, 5], np.array([4, 5]), torch.tensor([4, 5]), [[4, 5]]])
def test_usual_forms_are_read(value) -> None:
    assert as_tokens(value).ids.tolist() == [[4, 5]]


def test_padded_ids_without_a_mask_are_refused() -> None:
    with pytest.raises(ConfigError, match="padding token 0 but no mask"):
        as_tokens(torch.tensor([[0, 4, 5]]), pad_id=0)
    assert as_tokens(torch.tensor([[4, 0, 5]]), pad_id=0).n_pos == 3  # inside, it is a token


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        torch.zeros(0, 3, dtype=torch.long),
        torch.ones(2, 2),
        "text",
        torch.zeros(1, 2, 3, dtype=torch.long),
    ],
)
def test_unusable_input_is_refused(value) -> None:
    with pytest.raises(ConfigError):
        as_tokens(value)


def test_masks_are_checked() -> None:
    ids = torch.tensor([[1, 2]])
    with pytest.raises(ConfigError, match="shape"):
        as_tokens(Tokens(ids, torch.tensor([[True]])))
    with pytest.raises(ConfigError, match="False everywhere"):
        as_tokens(Tokens(ids, torch.tensor([[False, False]])))
