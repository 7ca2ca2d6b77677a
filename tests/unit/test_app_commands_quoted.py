"""Commands that a page shows can be typed as they stand, whatever the user wrote."""

import shlex

from lensbench.app.workflows import expert_page, steering


def test_answers_with_spaces_stay_one_word() -> None:
    ask = steering.SteerAsk("agreement", towards="are, were")
    words = shlex.split(steering.command_of(ask))
    assert words[words.index("--towards") + 1] == "are, were"
    assert "['are', 'were']" in steering.python_of(ask)


def test_what_an_expert_study_looks_for_may_hold_quotes_and_prompts_spaces() -> None:
    ask = expert_page.ExpertAsk("atlas-moe", "my prompts.jsonl", 'say "no" for $5')
    words = shlex.split(expert_page.command_of(ask, "suppress"))
    assert words[words.index("--prompts") + 1] == "my prompts.jsonl"
    assert words[words.index("--says") + 1] == 'say "no" for $5'
    assert words[-2:] == ["--top", "3"]
