"""Self-speculative decoding from one exit layer, as in LayerSkip (Elhoushi et al. 2024).

The first E layers draft; the others check all drafts in one run over the states those left behind.
Nothing runs twice: the prompt passes layers 1..E while the first token is drafted and the rest when
it is checked, and only the last drafted token has still to pass the first E layers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round, check_exit
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.tokens import TokensLike

GoOn = Callable[[int, Tensor], bool]
"""Whether to draft another token, told how many there are and the logits of the last one."""


def fixed_exit(
    model: Model,
    prompt: TokensLike,
    exit_layer: int,
    draft: int = 4,
    max_new_tokens: int = 64,
    *,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Draft ``draft`` tokens a round with the first ``exit_layer`` layers and check them with all.

    Greedy text equals :func:`greedy` (up to ties of rounding); with a temperature, tokens are
    distributed as those of the full model.

    Args:
        model: a decoder-only model.
        prompt: one text.
        exit_layer: layers of the draft, 1 to L; with L every draft is accepted.
        draft: tokens drafted per round, at least 1.
        max_new_tokens: length of the continuation.
        warp: temperature, top-k and top-p of draft and check alike.
        seed: of the draws.
        plan: acts on draft and check alike.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a setting out of range, several prompts, or an architecture without keys and
            values per layer.

    Example:
        >>> said = acceleration.fixed_exit(
        ...     early, early.tokens(text), exit_layer=2, draft=3, max_new_tokens=8
        ... )
        >>> said.new == acceleration.greedy(early, early.tokens(text), 8).new
        True
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    check_exit(exit_layer, state.runner.n_layers)
    whole_number("draft", draft, least=1)
    drafter = PrefixDrafter(state)
    while not state.done:
        drafter.round(exit_layer, draft)
    return state.result()


class PrefixDrafter:
    """Rounds whose draft is a prefix of the layers; the exit may change from round to round.

    Between rounds every block holds all tokens but the last one of the text. With ``watch``,
    :attr:`states` keeps what every block gave in the last round.
    """

    def __init__(self, state: Decoding, *, watch: bool = False) -> None:
        self.state, self.runner, self.watch = state, state.runner, watch
        self.done = 0
        """Tokens that every block holds."""
        self.states: dict[int, Tensor] = {}
        """By block, the stream ``[1, n, d_model]`` after it, for all tokens of the last round."""

    def round(self, exit_layer: int, most: int, go_on: GoOn | None = None) -> Tensor:
        """Draft up to ``most`` tokens, check, emit; the logits of the check ``[n, d_vocab]``."""
        state, runner = self.state, self.runner
        limit = min(most, state.remaining - 1)
        start, text = self.done, len(state.ids)
        drafts: list[int] = []
        drawn: list[Tensor | None] = []
        self.states = {}
        states = [self._run(runner.embed(state.tensor(start), start), 0, exit_layer, start)]
        while len(drafts) < limit:
            logits = self._logits(states[-1], text + len(drafts) - states[-1].shape[1])
            token, probs = state.sampler.draw_with(logits)
            drafts.append(token)
            drawn.append(probs)
            at = text + len(drafts) - 1
            last = torch.tensor([[token]], device=state.model.device)
            states.append(self._run(runner.embed(last, at), 0, exit_layer, at))
            if go_on is not None and not go_on(len(drafts), logits):
                break
        upper = self._run(torch.cat(states, 1), exit_layer, runner.n_layers, start)
        checked = runner.logits(upper[:, text - start - 1 :])[0]
        kept, token = state.sampler.check(drafts, drawn, checked)
        state.emit([*drafts[:kept], token], Round(exit_layer if drafts else 0, len(drafts), kept))
        self.done = text + kept
        runner.crop(self.done)
        return checked

    def _logits(self, h: Tensor, at: int) -> Tensor:
        """What the draft says after these new exit states, the first of them of token ``at``."""
        del at
        return self.runner.logits(h[:, -1:])[0, -1]

    def _run(self, h: Tensor, first: int, last: int, at: int) -> Tensor:
        keep: dict[int, Tensor] | None = {} if self.watch else None
        out = self.runner.run(h, first, last, at, keep=keep)
        for layer, new in (keep or {}).items():
            old = self.states.get(layer)
            self.states[layer] = new if old is None else torch.cat((old, new), 1)
        return out
