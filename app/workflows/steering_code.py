"""Python that steers a prompt as the page does, with nothing but the library's own calls."""

from pathlib import Path
from typing import TYPE_CHECKING

from lensbench import belonging
from lensbench.app.workflows.directions import Rows
from lensbench.app.workflows.latent_page import dictionary_of
from lensbench.app.workflows.latent_steering import RANDOM
from lensbench.app.workflows.steering import direction_lines

if TYPE_CHECKING:
    from lensbench.app.workflows.steering_beside import BesideAsk


def is_public(ask: "BesideAsk") -> bool:
    """Whether the library has the direction: of a transcoder it has not."""
    if not ask.run:
        return True
    rows = Rows.of(Path(ask.run), ask.dictionary)
    return rows.site == rows.reads


def step_lines(ask: "BesideAsk", unit: float) -> str:
    """The step of strength 1 and the clean text, then ``kl(direction, strength)`` along it."""
    more, made = _direction(ask)
    at = "None" if ask.where == "all" else "range(n - 1, len(text[0]))"
    return (
        "import lensbench\nimport numpy as np\nimport pandas as pd\n"
        f"from lensbench import Plan, interventions, plots{more}\n\n{made}"
        f"unit = direction.with_norm({unit:.7g})  # length of the state at the steered tokens\n"
        f"prompt = model.tokens({ask.prompt!r}).ids\n"
        f"clean = model.generate(prompt, max_new_tokens={ask.new_tokens}, "
        f"temperature={ask.temperature!r}, seed={ask.seed})[0]\n"
        "text, n = [[*prompt[0].tolist(), *clean]], prompt.shape[1]\n\n"
        "def kl(direction, strength):  # KL(clean ‖ steered) at every step of the clean text\n"
        f"    plan = interventions.steer(direction, strength, positions={at})\n"
        "    p, q = (model.run(text, x).logits[0, n - 1 : -1].float().cpu().log_softmax(-1)\n"
        "            for x in (Plan(), plan))\n"
        "    return (p.exp() * (p - q)).sum(-1).clamp_min(0).numpy()\n\n"
        f"random = interventions.random_directions(unit, {RANDOM}, seed={ask.seed})\n"
    )


def step_code(ask: "BesideAsk", unit: float) -> str:
    """KL at every step, of the direction and of random ones, drawn as on the page."""
    one = f"np.stack([kl(one, {ask.strength!r}) for one in those])"
    return step_lines(ask, unit) + _drawn(one, "step", "range(1, k.shape[1] + 1)")


def dose_code(ask: "BesideAsk", unit: float, strengths: tuple[float, ...]) -> str:
    """The mean KL at every strength, drawn as on the page."""
    first = f"strengths = {list(strengths)!r}\n"
    one = "np.array([[kl(one, s).mean() for s in strengths] for one in those])"
    return step_lines(ask, unit) + first + _drawn(one, "place", "range(k.shape[1])")


def _drawn(values: str, x: str, at: str) -> str:
    """A line of the direction, and one with a band of the random ones."""
    return (
        f"those_of = {{'this direction': [unit], '{RANDOM} random directions': random}}\n"
        f"found = {{name: {values}\n         for name, those in those_of.items()}}\n"
        f"frame = pd.concat([pd.DataFrame({{'direction': name, {x!r}: {at},\n"
        "    'kl': k.mean(0), 'low': k.min(0), 'high': k.max(0)}) for name, k in found.items()])\n"
        f"plots.lines(frame, x={x!r}, y='kl', color='direction', low='low', high='high',\n"
        "            labels={'kl': 'KL(clean ‖ steered) [nats]'})\n"
    )


def _direction(ask: "BesideAsk") -> tuple[str, str]:
    """The part of the library that makes the direction, and the lines that do."""
    if ask.task is not None:
        return ", prompts", direction_lines(ask.task).partition("\n\n")[2]
    name, site = ask.model, f"blocks.{ask.layer}.resid_post"
    if ask.run:  # a latent, of the model that its dictionary was trained on
        known = belonging.trained_on(dictionary_of(Path(ask.run), ask.dictionary).coder.metadata)
        name = str(known.get("source") or known.get("name"))
    load = f"model = lensbench.load_model({name!r})\n"
    if ask.run:
        return ", saes", (
            f"{load}runs = saes.open_runs({ask.run!r})\n"
            f"sae = next(run for run in runs if run.name == {ask.dictionary!r})\n"
            f"direction = interventions.latent_direction(model, sae, {ask.latent})\n"
        )
    if ask.file:
        return ", saes", (
            f"{load}vector = saes.read_direction({ask.file!r})\n"
            f"direction = interventions.probe_direction({site!r}, vector)\n"
        )
    return "", (
        f"{load}site = {site!r}\n"
        f"sides = ({list(ask.plus)!r},\n         {list(ask.minus)!r})\n"
        "last = lambda text: model.run(model.tokens(text), capture=site).acts[site][0, -1].cpu()\n"
        "states = [np.stack([last(text) for text in texts]) for texts in sides]\n"
        "direction = interventions.Contrast(site, *states, paired=False).mean_difference()\n"
    )
