"""Python that ranks and moves experts as the page does, by the library's own calls alone."""

from pathlib import Path

from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.expert_page import ExpertAsk, ranked, top
from lensbench.app.workflows.expert_prompts import find_prompts
from lensbench.app.workflows.expert_steering import Weights
from lensbench.interventions.experts.ranking import ExpertRanking


def rank_code(ask: ExpertAsk, ranking: ExpertRanking, then: str = "ranking.plot()") -> str:
    """Python that makes a ranking, and ``then`` what is asked of it."""
    if not is_public(ask):
        return python_of(ranked, ask, then=then.removeprefix("ranking"))
    desk, file = ask.prompts.split(":"), Path(ask.prompts)
    named = find_prompts(ask.prompts)
    says = not named.labels or bool(ask.says)
    first: list[str] = []
    used = ["from lensbench.interventions import experts"]
    if file.is_file():
        lines = [f"lines = Path({ask.prompts!r}).read_text('utf-8').splitlines()",
                 "texts = [line for line in lines if line.strip()]"]  # fmt: skip
        first = ["from pathlib import Path\n"]
        if file.suffix == ".jsonl":
            first.insert(0, "import json")
            lines = [lines[0], "rows = [json.loads(line) for line in lines if line.strip()]",
                     "texts = [row['text'] for row in rows]"]  # fmt: skip
            lines += ["labels = [str(row['label']) for row in rows]"] * (not says)
    else:
        _, n, split, seed = [*desk, *["", "", "heldout", "0"][len(desk) :]][:4]
        used.append("from lensbench.worlds.desk import Desk")
        lines = [f"asked = Desk(0).prompts({n}, {split!r}, seed={seed}, of='questions')",
                 "texts = asked.texts"]  # fmt: skip
        lines += ["labels = [str(one) for one in asked.classes]"] * (not says)
    if says:
        used.insert(0, "from lensbench import Plan")
        phrases = [ask.says] if ask.says else list(named.refusals)
        lines += [f"says = experts.Says({phrases!r})",
                  "ids = [model.tokens(text).ids[0].tolist() for text in texts]",
                  "labels = says(model, ids, Plan())  # 'yes' where an answer says it"]  # fmt: skip
    return "\n".join([
        *first, "import lensbench", *used, "",
        f"model = lensbench.load_model({ask.model!r})", *lines,
        f"ranking = experts.ftri(experts.routing(model, texts), labels, target={ranking.target!r})",
        f"{then}\n",
    ])  # fmt: skip


def top_code(ask: ExpertAsk, ranking: ExpertRanking) -> str:
    """Python that gives the highest ranks of a ranking."""
    if not is_public(ask):
        return python_of(top, Call(ranked, ask))
    shown = [str(c) for c in top(ranking)]
    then = f"frame.loc[frame['class'] == ranking.target, {shown!r}].head(10)"
    return rank_code(ask, ranking, f"frame = ranking.to_frame()\n{then}")


def is_public(ask: ExpertAsk) -> bool:
    """Whether a notebook can read the prompts: those typed into a pipe it cannot."""
    file = Path(ask.prompts)
    return file.suffix in (".txt", ".jsonl") if file.exists() else ask.prompts != "-"


def plan_lines(weights: Weights) -> list[str]:
    """Lines that make the plan of sliders: layer, expert, weight from -1 to 1."""
    forced = [(layer, expert) for layer, expert, weight in weights if weight == 1]
    scaled = [
        f"experts.scale(({layer}, {expert}), {1 + w if w < 0 else 1 / (1 - w):.6g})"
        for layer, expert, w in weights if w and w != 1
    ]  # fmt: skip
    made = [*scaled, *[f"experts.force({forced!r})"] * bool(forced)] or ["Plan()"]
    return [f"plan = {made[0]}", *(f"plan += {one}" for one in made[1:])]


def said_code(model: str, prompt: str, weights: Weights) -> str:
    """Python that continues a prompt clean and under sliders."""
    lines = plan_lines(weights)
    empty = ["from lensbench import Plan"] * (lines == ["plan = Plan()"])
    used = [] if empty else ["from lensbench.interventions import experts"]
    return "\n".join([
        "import lensbench", *empty, "from lensbench import interventions", *used, "",
        f"model = lensbench.load_model({model!r})",
        *lines,
        f"interventions.generate_beside(model, [{prompt!r}], plan, 16).to_frame()\n",
    ])  # fmt: skip
