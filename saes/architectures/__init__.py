"""Architectures as a user writes them: one config class each, formula and source in its words.

With ``x`` scaled to mean square norm d_model, ``pre = (x - b_dec) @ W_enc + b_enc``, unit-norm rows
of ``W_dec`` and ``x_hat = acts @ W_dec + b_dec``, every loss is::

    mean over tokens of |x_hat - x|^2 + sparsity + aux_coefficient * |aux_hat - (x - x_hat)|^2

What an architecture adds to that is said in its docstring. How a step is computed lies in
:mod:`lensbench.saes.step.rules`, one rule per class here.
"""

from lensbench.saes.architectures.base import DictionaryConfig as DictionaryConfig
from lensbench.saes.architectures.fixed_k import BatchTopKConfig as BatchTopKConfig
from lensbench.saes.architectures.fixed_k import FixedK as FixedK
from lensbench.saes.architectures.fixed_k import FromBatch as FromBatch
from lensbench.saes.architectures.fixed_k import MatryoshkaConfig as MatryoshkaConfig
from lensbench.saes.architectures.fixed_k import TopKConfig as TopKConfig
from lensbench.saes.architectures.penalised import GatedConfig as GatedConfig
from lensbench.saes.architectures.penalised import JumpReLUConfig as JumpReLUConfig
from lensbench.saes.architectures.penalised import PAnnealConfig as PAnnealConfig
from lensbench.saes.architectures.penalised import Penalised as Penalised
from lensbench.saes.architectures.penalised import ReLUConfig as ReLUConfig
from lensbench.saes.architectures.penalised import TiedConfig as TiedConfig

ARCHITECTURES: dict[str, type[DictionaryConfig]] = {
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
    "matryoshka": MatryoshkaConfig,
    "relu": ReLUConfig,
    "tied": TiedConfig,
    "p_anneal": PAnnealConfig,
    "jumprelu": JumpReLUConfig,
    "gated": GatedConfig,
}
"""Architectures by the name that a config gives them."""
