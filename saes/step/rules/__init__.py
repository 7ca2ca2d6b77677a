"""How each architecture steps: one rule per config class of :mod:`lensbench.saes.architectures`."""

from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.step.rules.base import Rule
from lensbench.saes.step.rules.fixed_k import BatchTopK, Matryoshka, TopK
from lensbench.saes.step.rules.gated import Gated
from lensbench.saes.step.rules.jumprelu import JumpReLU
from lensbench.saes.step.rules.penalised import PAnneal, ReLU, Tied

RULES: dict[str, Rule] = {
    "topk": TopK(),
    "batchtopk": BatchTopK(),
    "matryoshka": Matryoshka(),
    "relu": ReLU(),
    "tied": Tied(),
    "p_anneal": PAnneal(),
    "jumprelu": JumpReLU(),
    "gated": Gated(),
}


def rule_of(config: DictionaryConfig) -> Rule:
    """The rule of a config's architecture."""
    return RULES[config.kind()]
