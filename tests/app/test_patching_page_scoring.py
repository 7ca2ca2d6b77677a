"""The page Patching says how answers of several tokens were scored, and nothing where none were."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("several", ["first", "sum", None])
def test_the_page_says_when_answers_were_cut_to_their_first_token(
    several, monkeypatch, tmp_path: Path
) -> None:
    import lensbench
    from lensbench import interventions, prompts
    from lensbench.app.workflows import patch_jobs

    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = prompts.agreement(model, n=32)  # those of the page as it opens
    found = interventions.patch_sweep(model, pairs, "resid_pre", layers=[1], positions=["end"])
    told = {} if several is None else {"several": several, "pairs_of_several_tokens": 3}
    found = replace(found, config={**found.config, **told})
    monkeypatch.setattr(patch_jobs, "kept", lambda _: found)
    page = open_page(monkeypatch, tmp_path, "patching", model="atlas-dense")
    assert not page.exception
    said = words(page)
    assert ("3 of 32 pairs have an answer" in said) == (several is not None)
    assert ("the first token alone" in said) == (several == "first")
