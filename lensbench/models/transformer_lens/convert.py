"""From a native model to a TransformerLens bridge, on a copy, checked against the original.

A bridge takes over the module it is built around, so it gets a deep copy without our hooks. Eager
attention is set *before* the bridge is built: TransformerLens 3.9 leaves a module in memory on
sdpa, and its latent attention then sees no causal mask (DeepSeek attends to the future).
"""

import copy
import warnings
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lensbench import io
from lensbench.errors import ConfigError, ModelError
from lensbench.models.base import Model
from lensbench.models.huggingface import NativeModel
from lensbench.models.loading import fingerprint
from lensbench.models.transformer_lens import tool
from lensbench.models.transformer_lens.checks import LensExaminer, certificate
from lensbench.models.transformer_lens.model import TransformerLensModel

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TWINS: "WeakKeyDictionary[nn.Module, dict[bool, tuple[str, TransformerLensModel]]]" = (
    WeakKeyDictionary()
)


def to_transformer_lens(model: Model, *, fold: bool = False) -> TransformerLensModel:
    """The model as a TransformerLens bridge on a copy of its weights; ``.root`` is the bridge.

    Nothing is downloaded, and the model itself stays as it is. With ``fold`` norms' gains and value
    biases are folded into the weights that read them and writing weights are centred, as
    TransformerLens does at load; that leaves the probabilities, not the residual stream, the same.

    Raises:
        ConfigError: a model that TransformerLens has no bridge for, or one that is not native.
        ModelError: the bridge computes something else than the model.
        BackendUnavailableError: TransformerLens is not installed.
    """
    if isinstance(model, TransformerLensModel):
        return _folded(model) if fold else model
    if not isinstance(model, NativeModel):
        raise ConfigError(
            f"only a transformers model can become a bridge, got a {type(model).__name__}; with "
            "dictionaries spliced in, convert model.inner"
        )
    if fold and not _has_sinks(model.module):
        try:
            return _converted(model, fold=True, values=True)
        except (ConfigError, ModelError):
            pass  # TransformerLens lays some value biases out wrongly; they can stay where they are
    return _converted(model, fold=fold, values=False)


def _converted(model: NativeModel, *, fold: bool, values: bool) -> TransformerLensModel:
    """A bridge, folded or not, with or without the value biases, compared with the model."""
    module = _plain(model)
    bridge = _build(module, type(model.module).__name__, model.card.name)
    if fold:
        _fold(bridge, values=values)
    lens = _opened(bridge, _card(model, folded=fold), model.tokenizer)
    examiner = LensExaminer(lens)
    lens.certificate = certificate(lens, examiner.compare(model, folded=fold)).require()
    return lens


def lens_twin(model: Model, *, fold: bool = True) -> TransformerLensModel:
    """:func:`to_transformer_lens`, kept until the model's weights change."""
    module: Any = getattr(model, "module", None)
    if module is None:
        return to_transformer_lens(model, fold=fold)
    now = model.card.fingerprint if isinstance(model, TransformerLensModel) else fingerprint(module)
    kept = _TWINS.setdefault(module, {})
    if fold not in kept or kept[fold][0] != now:
        kept[fold] = (now, to_transformer_lens(model, fold=fold))
    return kept[fold][1]


def _plain(model: NativeModel) -> Any:
    """A copy of the module without hooks, on eager attention and eager experts."""
    module: Any = copy.deepcopy(model.module)
    for each in module.modules():
        for name in _HOOKS:
            getattr(each, name).clear()
    module.set_attn_implementation("eager")
    if "lensbench" in str(getattr(module.config, "_experts_implementation", "")):
        module.set_experts_implementation("eager")
    return module.eval()


def _build(module: Any, architecture: str, name: str) -> Any:
    builder = tool.load("model_bridge.sources._bridge_builder")
    try:
        with tool.unpatched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return builder.build_bridge_from_module(
                module,
                architecture=architecture,
                hf_config=module.config,
                tokenizer=None,  # it would be reopened from the hub; ours stays with the model
                model_name=name,
            )
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"TransformerLens cannot build a bridge around {architecture}: {reason}"
        ) from error


def _opened(bridge: Any, card: Any, tokenizer: Any) -> TransformerLensModel:
    try:
        return TransformerLensModel(bridge, card, tokenizer)
    except RuntimeError as error:  # shapes that do not fit, inside a bridge's forward
        raise ConfigError(
            f"TransformerLens' bridge of {card.family} does not run: {str(error).splitlines()[0]}"
        ) from error


def _has_sinks(module: nn.Module) -> bool:
    """Value biases are folded as if each row of the pattern summed to 1; a sink takes a share."""
    return any(name.endswith("sinks") for name, _ in module.named_parameters())


def _fold(bridge: Any, *, values: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bridge.enable_compatibility_mode(
                disable_warnings=True,
                fold_value_biases=values,
                # A cap on the logits does not let a common term pass.
                center_unembed=not getattr(bridge.cfg, "output_logits_soft_cap", None),
            )
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"TransformerLens cannot fold this model's weights: {reason}") from error


def _folded(model: TransformerLensModel) -> TransformerLensModel:
    """A folded copy of a TransformerLens model."""
    with model.trunk.lock:
        root = copy.deepcopy(model.root)
    if model.layout.is_bridge:
        _fold(root, values=False)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root.process_weights_(
                fold_ln=True,
                center_writing_weights="LN" in str(root.cfg.normalization_type),
                center_unembed=True,
            )
    lens = TransformerLensModel(root, _card(model, folded=True), model.tokenizer)
    examiner = LensExaminer(lens)
    lens.certificate = certificate(lens, examiner.compare(model, folded=True)).require()
    return lens


def _card(model: NativeModel, *, folded: bool) -> Any:
    mark = model.card.fingerprint
    if folded:  # another residual stream, so not to be taken for the model's
        mark = io.fingerprint([mark, "folded"])
    return replace(model.card, backend="transformer_lens", fingerprint=mark)
