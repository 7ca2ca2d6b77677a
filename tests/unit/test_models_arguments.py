"""Arguments of the wrong kind are named by the package itself, with what to pass instead."""

from typing import Any

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError, UnknownNameError
from tests.helpers import random_ids, tiny

IDS = random_ids()
SITE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model("atlas-dense", certify=False)


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["The capital"], r"row 0 is text, 'The capital'.*model\.tokens"),
        ([[1, "a"]], r"row 0.*whole numbers.*'a'"),
        ([[1.5, 2]], r"row 0.*1\.5"),
        ([1.5, 2], r"whole numbers.*1\.5"),
        ([[True, False]], r"row 0.*True"),
        ([[3], 4], r"row 1.*got 4"),
        (3, r"token ids.*\[batch, pos\].*got 3"),
        (None, r"token ids.*got None"),
        ({"input_ids": [[1]]}, r"token ids.*\['input_ids'\]"),
        (np.array(["a"]), r"integers, got"),
        (np.array([[1.0]]), r"integers, got"),
    ],
)  # fmt: skip
def test_what_are_no_token_ids_is_named(model: Any, tokens: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model.run(tokens)


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (3, r"text must be a string or a list of strings; got 3"),
        ([3], r"text must be a string or a list of strings; got 3"),
        (None, r"list of strings; got None"),
        (b"abc", r"list of strings; got b'abc'"),
        (["a", b"b"], r"list of strings; got b'b'"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named(model: Any, text: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model.tokens(text)
    assert model.tokens(["the capital", "of"]).n_rows == 2
    assert model.tokens(t for t in ("the", "of")).n_rows == 2


@pytest.mark.illtyped
@pytest.mark.parametrize("way", ["native", "spliced", "transformer_lens", "nnsight"])
def test_what_is_no_plan_and_no_site_is_named_by_every_back_end(way: str) -> None:
    from lensbench import load_model
    from lensbench.models.transformer_lens import to_transformer_lens
    from lensbench.plan import Edit, Plan, Zero

    small = load_model(tiny("llama"), certify=False)
    asked: Any = {
        "native": lambda: small,
        "spliced": lambda: small.with_saes({SITE: dictionary()}),
        "transformer_lens": lambda: to_transformer_lens(small),
        "nnsight": lambda: load_model(tiny("llama"), backend="nnsight", certify=False),
    }[way]()
    for plan, says in (
        ("zero", r"plan must be a Plan.*got 'zero'"),
        ({"edits": []}, r"plan must be a Plan.*got {"),
        (None, r"plan must be a Plan.*got None"),
        (Edit(SITE, Zero()), r"plan must be a Plan.*Plan\(\(edit,\)\)"),  # type: ignore[arg-type]
    ):
        for call in (
            lambda plan=plan: asked.run(IDS, plan),
            lambda plan=plan: asked.generate(IDS, plan, 1),
            lambda plan=plan: asked.run_many(IDS, [plan]),
        ):
            with pytest.raises(ConfigError, match=says):
                call()
    with pytest.raises(ConfigError, match="list of plans"):
        asked.run_many(IDS, Plan())
    for capture, says in (([3], "got 3"), (3, "got 3"), ([SITE, None], "got None")):
        with pytest.raises(ConfigError, match=f"site.*{says}"):
            asked.run(IDS, capture=capture)
    with pytest.raises(ConfigError, match="past"):
        asked.run(IDS, past=3)
    for size in (0, -1, 1.5, "x", True):
        with pytest.raises(ConfigError, match=f"batch_size.*at least 1.*{size!r}"):
            asked.run_many(IDS, [Plan()], batch_size=size)
    made = asked.run_many(IDS[:1], [Plan()] * 3, batch_size=np.int64(2))
    assert made.logits.shape[0] == 3


def dictionary() -> Any:
    from lensbench.saes import SAE

    rng = torch.Generator().manual_seed(0)
    return SAE(
        W_enc=torch.randn(32, 64, generator=rng), b_enc=torch.zeros(64),
        W_dec=torch.randn(64, 32, generator=rng), b_dec=torch.zeros(32), activation="relu",
    )  # fmt: skip


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 1.5}, r"max_new_tokens.*whole number.*1\.5"),
        ({"max_new_tokens": "3"}, r"max_new_tokens.*'3'"),
        ({"max_new_tokens": 0}, r"max_new_tokens must be.*at least 1, got 0"),
        ({"temperature": "x"}, r"temperature.*'x'"),
        ({"temperature": float("nan")}, r"temperature.*nan"),
        ({"temperature": -1.0}, r"temperature.*-1"),
        ({"seed": "x"}, r"seed.*whole number.*'x'"),
        ({"stop_ids": "x"}, r"stop_ids.*'x'"),
        ({"stop_ids": ["x"]}, r"stop_ids.*'x'"),
    ],
)  # fmt: skip
def test_settings_of_decoding_are_checked(model: Any, options: dict[str, Any], says: str) -> None:
    from lensbench.models.transformer_lens import to_transformer_lens

    for asked in (model, to_transformer_lens(model)):
        with pytest.raises(ConfigError, match=says):
            asked.generate([[2, 5]], **options)


@pytest.mark.illtyped
def test_operations_take_numbers() -> None:
    from lensbench.plan import Add, Call, Clamp, Project, Replace, Scale, Set

    for make, says in (
        (lambda: Add("x"), r"Add.*value.*'x'"),  # type: ignore[arg-type]
        (lambda: Set(None), r"Set.*value.*None"),  # type: ignore[arg-type]
        (lambda: Scale("2"), r"Scale.*factor.*'2'"),  # type: ignore[arg-type]
        (lambda: Replace("x"), r"Replace.*values.*'x'"),  # type: ignore[arg-type]
        (lambda: Project("x"), r"Project.*directions.*'x'"),  # type: ignore[arg-type]
        (lambda: Add(1j), r"Add.*value.*1j"),  # type: ignore[arg-type]
        (lambda: Clamp("a", 1.0), r"Clamp.*low.*'a'"),  # type: ignore[arg-type]
        (lambda: Call(3, "x"), r"Call.*fn.*3"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=says):
            make()
    for fine in (1, 2.5, np.float32(2), np.ones(3), torch.ones(3), True):
        assert Add(fine).apply(torch.zeros(2, 3)).shape == (2, 3)  # type: ignore[arg-type]
    assert torch.equal(
        Project(np.eye(3)[:1]).apply(torch.ones(1, 3)),  # type: ignore[arg-type]
        torch.tensor([[0.0, 1.0, 1.0]]),
    )


@pytest.mark.illtyped
@pytest.mark.parametrize("x", ["", "  ", None, 3, b"atlas-dense", ["atlas-dense"]])
def test_what_names_no_model_is_refused_before_it_is_looked_for(x: Any) -> None:
    from lensbench import load_model

    with pytest.raises(ConfigError, match=r"bundled name.*folder.*hub id.*got"):
        load_model(x)
    with pytest.raises(ConfigError, match=r"transformers model.*Linear"):
        load_model(torch.nn.Linear(2, 2))


@pytest.mark.illtyped
def test_transformer_lens_is_named_where_it_is_asked_for_as_a_back_end() -> None:
    from lensbench import load_model

    with pytest.raises(UnknownNameError, match=r"HookedTransformer.*to_transformer_lens"):
        load_model("atlas-dense", backend="transformer_lens")  # type: ignore[arg-type]


def test_one_line_says_what_a_model_and_a_forward_are(model: Any) -> None:
    card = model.card
    told = repr(model)
    assert "\n" not in told
    assert "NativeModel" in told
    for part in (card.name, card.fingerprint, "6 layers", "d_model 128", "4 heads", "float32"):
        assert part in told
    small = model.with_saes({"blocks.1.mlp_out": wide()})
    assert "blocks.1.mlp_out" in repr(small)
    found = model.run([[2, 5, 9]], capture=[SITE, "embed"])
    assert repr(found) == (
        "Forward(logits: [1, 3, 897], acts: {embed: [1, 3, 128], blocks.1.resid_post: [1, 3, 128]},"
        " layers_run: 6)"
    )
    many = model.run([[2, 5, 9]], capture=[f"blocks.{i}.resid_post" for i in range(6)])
    assert "acts at 6 sites" in repr(many)
    none = repr(model.run([[2, 5, 9]], capture=SITE, logits="none"))
    assert none.startswith("Forward(logits: None")


def wide() -> Any:
    from lensbench.saes import SAE

    return SAE(
        W_enc=torch.ones(128, 4), b_enc=torch.zeros(4), W_dec=torch.ones(4, 128),
        b_dec=torch.zeros(128), activation="relu",
    )  # fmt: skip


@pytest.mark.illtyped
def test_the_nearest_task_is_offered() -> None:
    from lensbench import prompts

    with pytest.raises(UnknownNameError, match="Did you mean 'agreement'"):
        prompts.TASKS["agrement"]
    assert prompts.TASKS.get("agrement") is None
    assert "agrement" not in prompts.TASKS
    assert list(prompts.TASKS) == sorted(prompts.TASKS)
