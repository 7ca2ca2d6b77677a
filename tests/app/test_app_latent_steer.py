"""Steering with a planted latent, latents that go together, what a text wakes: known answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.app.driver import open_page, words
from tests.app.tiny_root import Root, make_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SITE, TOKEN = "blocks.2.resid_post", 20


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, str, int]:
    """A dictionary behind the last block whose latent 5 writes what raises one token's logit."""
    import lensbench
    from lensbench import saes

    root = make_root(tmp_path_factory.mktemp("planted"), run=False)
    store = lensbench.open_store(root.folder / "acts")
    entry = {"architecture": "topk", "d_sae": 64, "k": 8, "lr": 1e-2, "site": SITE}
    train = {"tokens": 2048, "batch_size": 32, "log_every": 20}
    saes.train(store, {"train": train, "sweep": [entry]}, out=root.folder / "run",
               model_card=store.model, progress=False)  # fmt: skip
    (run,) = saes.open_runs(root.folder / "run")
    model = lensbench.load_model(root.model)
    row = saes.token_direction(model, TOKEN)
    from lensbench.saes.latents.dashboard import logit_effects

    assert int(logit_effects(model, row[None])[0].argmax()) == TOKEN, "it promotes this one most"
    _plant(root.folder / "run" / run.name, 5, (row / row.norm()).numpy())
    return root, run.name, 5


def _plant(folder: Path, latent: int, row: np.ndarray) -> None:
    """Put a decoder row in the place of a trained one, through the result's own files."""
    from dataclasses import replace

    from lensbench.results import load

    where = next(p.parent for p in folder.rglob("result.json"))
    run: Any = load(where)
    weights = {**run.weights, "W_dec": run.weights["W_dec"].copy()}
    weights["W_dec"][latent] = row
    replace(run, weights=weights).save(where)


def ask_of(planted: tuple[Root, str, int], **changes: Any) -> Any:
    from lensbench.app.workflows.latent_steering import LatentSteer

    root, name, latent = planted
    given = {"latent": latent, "prompt": "the cat sat", "largest": 50.0, "strength": 8.0,
             "new_tokens": 6}  # fmt: skip
    return LatentSteer(str(root.folder / "run"), name, **(given | changes))


def test_steering_with_a_planted_latent_makes_the_token_it_writes(planted: Any) -> None:
    from lensbench.app.workflows.latent_steering import beside

    found = beside(ask_of(planted))
    assert set(found.ids["steered"]) == {TOKEN}
    assert TOKEN not in found.ids["clean"]
    assert set(found.ids["random"]) != {TOKEN}
    assert found.changed("steered") == (True,) * 6
    assert found.length == pytest.approx(400.0, rel=1e-3)
    assert found.kl["latent"].min() > 0.1
    other = beside(ask_of(planted, latent=6))
    assert set(other.ids["steered"]) != {TOKEN}, "another latent does not"
    away = beside(ask_of(planted, strength=-8.0))
    assert TOKEN not in away.ids["steered"]


def test_strength_0_is_the_clean_model_bit_for_bit(planted: Any) -> None:
    from lensbench.app.workflows import latent_steering as steering
    from lensbench.plan import Plan

    ask = ask_of(planted, strength=0.0, temperature=1.0, seed=3)
    found = steering.beside(ask)
    direction = steering.direction_of(Path(ask.run), ask.name, ask.latent)
    assert steering.plan_of(ask, direction, 4) == Plan()
    assert found.identical
    assert found.ids["clean"] == found.ids["steered"] == found.ids["random"]
    assert found.kl["latent"].tolist() == [0.0] * len(found.kl)
    assert not steering.beside(ask_of(planted, strength=0.25, largest=1.0)).identical, "control"


def test_only_the_tokens_that_are_named_are_steered(planted: Any) -> None:
    from lensbench.app.workflows import latent_steering as steering

    ask = ask_of(planted, where=steering.AFTER, strength=1.0)
    direction = steering.direction_of(Path(ask.run), ask.name, ask.latent)
    (edit,) = steering.plan_of(ask, direction, 4).edits
    assert edit.positions is not None
    assert list(edit.positions) == list(range(3, 10))
    (everywhere,) = steering.plan_of(ask_of(planted), direction, 4).edits
    assert everywhere.positions is None


def test_divergence_per_step_is_that_of_plain_hooks(planted: Any) -> None:
    from transformers import AutoModelForCausalLM

    import lensbench
    from lensbench.app.workflows.latent_steering import beside, direction_of

    ask = ask_of(planted, strength=1.0)
    found = beside(ask)
    root = planted[0]
    module = AutoModelForCausalLM.from_pretrained(root.model).eval()
    ids = lensbench.load_model(root.model).tokens(ask.prompt).ids[0].tolist()
    whole = torch.tensor([[*ids, *found.ids["clean"]]])
    shift = 50.0 * torch.from_numpy(direction_of(Path(ask.run), ask.name, 5).vector)

    def add(_m: Any, _i: Any, out: Any) -> Any:
        return out + shift if torch.is_tensor(out) else (out[0] + shift, *out[1:])

    with torch.no_grad():
        clean = module(whole).logits[0].log_softmax(-1)
        module.model.layers[2].register_forward_hook(add)
        other = module(whole).logits[0].log_softmax(-1)
    kl = (clean.exp() * (clean - other)).sum(-1)[len(ids) - 1 : -1]
    np.testing.assert_allclose(found.kl["latent"], kl.numpy(), rtol=1e-3, atol=1e-6)


def test_what_cannot_be_steered_is_refused_in_words(planted: Any) -> None:
    from lensbench.app.workflows.latent_steering import beside
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match="never fires"):
        beside(ask_of(planted, largest=0.0))
    with pytest.raises(ConfigError, match="prompt of 1 to"):
        beside(ask_of(planted, prompt=" "))
    with pytest.raises(ConfigError, match="latents run from 0 to 63"):
        beside(ask_of(planted, latent=64))
    with pytest.raises(ConfigError, match="shorten the prompt"):
        beside(ask_of(planted, prompt="the cat " * 200))


def told(page: Any) -> str:
    return words(page).replace("\\", "")


def loud(planted: Any) -> int:
    from lensbench.app.workflows.latent_related import measured

    root, name, _ = planted
    table = measured(root.folder / "run", name, root.folder / "acts")
    return int(table.sort_values("fires")["latent"].iloc[-1])


def test_largest_activations_and_firing_together_are_those_of_a_direct_encoding(
    planted: Any,
) -> None:
    from lensbench import open_store
    from lensbench.app.workflows.latent_page import dictionary_of
    from lensbench.app.workflows.latent_related import cosines, measured, together

    root, name, _ = planted
    run, where = root.folder / "run", root.folder / "acts"
    store, sae = open_store(where), dictionary_of(run, name).sae
    with torch.no_grad():
        acts = sae.encode(torch.from_numpy(store.rows(SITE, slice(0, store.n_tokens)))).numpy()
    table = measured(run, name, where)
    np.testing.assert_allclose(table["largest"], acts.max(0), rtol=1e-5)
    np.testing.assert_allclose(table["fires"], (acts > 0).mean(0))
    latent = loud(planted)
    frame, chance = together(run, name, latent, where)
    for row in frame.to_dict("records"):
        other = int(row["latent"])
        direct = np.corrcoef(acts[:, latent], acts[:, other])[0, 1]
        assert row["correlation"] == pytest.approx(direct, abs=1e-4)
        both = ((acts[:, latent] > 0) & (acts[:, other] > 0)).sum() / (acts[:, latent] > 0).sum()
        assert row["of its firings"] == pytest.approx(both)
    assert latent not in frame["latent"].tolist()
    assert frame["correlation"].is_monotonic_decreasing
    assert 0 < chance < 1
    rows = torch.nn.functional.normalize(sae.W_dec.float(), dim=1)
    np.testing.assert_allclose(cosines(run, name, 5), (rows @ rows[5]).detach(), atol=1e-5)


def test_taking_a_latent_out_of_its_contexts_is_what_plain_hooks_do(planted: Any) -> None:
    from transformers import AutoModelForCausalLM

    from lensbench import open_store
    from lensbench.app.workflows.latent_effect import latent_effect
    from lensbench.app.workflows.latent_page import dictionary_of, make_board

    root, name, _ = planted
    run, where, latent = root.folder / "run", root.folder / "acts", loud(planted)
    found = latent_effect(run, name, latent, where, make_board(run, name, latent, where))
    assert found.own.n >= 2
    assert "nats" in found.frame.attrs["units"].values()
    first = found.frame.iloc[0]
    store, sae = open_store(where), dictionary_of(run, name).sae
    sequence = store.sequence_of(int(first["row"]))
    at = int(np.flatnonzero(sequence.rows[0] == first["row"])[0])
    module = AutoModelForCausalLM.from_pretrained(root.model).eval()
    with torch.no_grad():
        act = sae.encode(torch.from_numpy(store.rows(SITE, [int(first["row"])])))[0, latent]

        def take_out(_m: Any, _i: Any, out: Any) -> Any:
            x = (out if torch.is_tensor(out) else out[0]).clone()
            x[0, at] -= act * sae.W_dec[latent]
            return x if torch.is_tensor(out) else (x, *out[1:])

        ids = sequence.tokens.ids
        target = int(ids[0, at + 1])
        clean = -module(ids).logits[0, at].log_softmax(-1)[target]
        module.model.layers[2].register_forward_hook(take_out)
        without = -module(ids).logits[0, at].log_softmax(-1)[target]
    assert first["clean loss"] == pytest.approx(float(clean), abs=1e-4)
    assert first["without it"] == pytest.approx(float(without - clean), abs=1e-4)


def page_of(monkeypatch: Any, planted: Any, latent: int | None = None, **query: str) -> Any:
    root, name, _ = planted
    given = {} if latent is None else {"latent": str(latent)}
    page = open_page(monkeypatch, root.folder, "latent", run="run", dictionary=name, **given,
                     **query)  # fmt: skip
    assert not page.exception
    return page


def test_the_panel_steers_with_every_control(monkeypatch: Any, planted: Any) -> None:
    page = page_of(monkeypatch, planted, loud(planted), part="Steer with it", prompt="the cat")
    assert "Added: a vector of length" in told(page)
    assert "resid_post" in told(page)
    page.select_slider(key="strength").set_value(0.0).run()
    assert "bit-identical" in told(page)
    page.select_slider(key="strength").set_value(4.0).run()
    page.selectbox(key="where").set_value("after").run()
    assert "from the prompt" in told(page)
    page.number_input(key="new").set_value(3).run()
    assert "n = 3 steps" in told(page)
    page.number_input(key="heat").set_value(1.0).run()
    page.number_input(key="seed").set_value(2).run()
    assert not page.exception
    assert not page.error
    page.text_area(key="prompt").set_value("").run()
    assert "Type a prompt" in told(page)


def test_a_latent_is_verified_by_a_button(monkeypatch: Any, planted: Any) -> None:
    page = page_of(monkeypatch, planted, loud(planted), part="Verify")
    page.button(key="verify-own").click().run()
    assert not page.exception
    assert {m.label for m in page.metric} == {"Loss of the next token without it",
                                              "Without another active latent"}  # fmt: skip
    assert "95 % interval over documents" in told(page)
    page.number_input(key="latent").set_value(5).run()
    assert not page.metric, "the number goes when something else is asked"


def test_related_latents_and_logits_are_beside_their_controls(
    monkeypatch: Any, planted: Any
) -> None:
    latent = loud(planted)
    page = page_of(monkeypatch, planted, latent, part="Related latents")
    said = told(page)
    assert "turned round the text at random" in said
    assert "largest cosine of a random direction" in said
    page = page_of(monkeypatch, planted, 5, part="What it writes")
    assert len(page.get("plotly_chart")) == 2
    assert "16 random directions" in told(page)


def test_the_latents_of_a_text_are_those_of_a_direct_encoding(
    monkeypatch: Any, planted: Any
) -> None:
    from lensbench.app.cache import strongest

    root, name, _ = planted
    page = page_of(monkeypatch, planted, find="What fires on my text")
    assert "Type a text" in told(page)
    page.text_input(key="typed").set_value("the dog saw the cat").run()
    assert not page.error
    table = page.dataframe[0].value
    found = strongest(root.folder / "run", name, root.folder / "acts", "the dog saw the cat")
    assert table["latent"].tolist() == found["latent"].tolist()
    assert table["activation"].is_monotonic_decreasing
    assert 0 not in table["position"].tolist(), "BOS is left out"


def test_the_table_is_searched_ordered_and_narrowed(monkeypatch: Any, planted: Any) -> None:
    page = page_of(monkeypatch, planted)
    assert "density" not in page.dataframe[0].value
    page.selectbox(key="by").set_value("largest").run()
    table = page.dataframe[0].value
    assert table["largest"].is_monotonic_decreasing
    page.toggle(key="falling").set_value(False).run()
    assert page.dataframe[0].value["largest"].is_monotonic_increasing
    page.radio(key="which").set_value("dead").run()
    assert (page.dataframe[0].value["density"] == 0).all()
    page.radio(key="which").set_value("all").run()
    token = str(page.dataframe[0].value["writes towards"].iloc[0]).split()[0]
    page.text_input(key="said").set_value(token).run()
    kept = page.dataframe[0].value["writes towards"]
    assert all(token.casefold() in text.casefold() for text in kept)
    page = page_of(monkeypatch, planted, 5, by="Cosine with the open latent")
    assert page.dataframe[0].value["latent"].iloc[0] == 5
    assert page.dataframe[0].value["cosine"].is_monotonic_decreasing


def test_a_dead_latent_says_so_in_every_part(monkeypatch: Any, planted: Any) -> None:
    from lensbench.app.widgets.latent_board import PARTS
    from lensbench.app.workflows.latent_related import measured

    root, name, _ = planted
    table = measured(root.folder / "run", name, root.folder / "acts")
    dead = table.loc[table["fires"] == 0, "latent"]
    assert len(dead), "the tiny dictionary has some"
    for part in PARTS.values():
        page = page_of(monkeypatch, planted, int(dead.iloc[0]), part=part)
        assert "never fires" in told(page)
