"""One model, four threads, edited and clean runs interleaved: none may see another's hooks."""

from concurrent.futures import ThreadPoolExecutor

import torch

from tests.helpers import random_ids, tiny

ROUNDS = 1000


def contaminated(model, seed: int) -> int:
    """Wrong answers among ``ROUNDS`` runs of one thread."""
    from lensbench import Plan
    from lensbench.plan import Scale, edit, skip_layers

    ids = random_ids(1, 5, seed=seed)
    plans = [Plan(), edit("blocks.1.resid_post", Scale(0.1 * (seed + 2))), skip_layers([seed % 2])]
    site = "blocks.1.resid_post"
    expected = [model.run(ids, plan, [site]) for plan in plans]
    wrong = 0
    for i in range(ROUNDS):
        want = expected[i % 3]
        got = model.run(ids, plans[i % 3], [site])
        wrong += not (
            torch.equal(got.logits, want.logits) and torch.equal(got.acts[site], want.acts[site])
        )
    return wrong


def test_four_threads_do_not_contaminate_each_other() -> None:
    import lensbench

    model = lensbench.load_model(tiny("llama", num_hidden_layers=2), certify=False)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(contaminated, [model] * 4, range(4))) == [0, 0, 0, 0]


def test_control_a_shared_session_would_contaminate(monkeypatch) -> None:
    # The same traffic with one global session instead of a ContextVar: answers go wrong.
    import lensbench
    from lensbench.models import attention, hooks, trunk

    class Global:
        value = None

        def get(self):
            return self.value

        def set(self, session):
            self.value = session

        def reset(self, _token):
            self.value = None

    model = lensbench.load_model(tiny("llama", num_hidden_layers=2), certify=False)
    shared = Global()
    for module in (attention, hooks, trunk):
        monkeypatch.setattr(module, "ACTIVE", shared)

    def traffic(seed: int) -> bool:
        try:
            return contaminated(model, seed) > 0
        except Exception:
            return True
        except BaseException:
            return True

    with ThreadPoolExecutor(4) as pool:
        assert any(pool.map(traffic, range(4)))
