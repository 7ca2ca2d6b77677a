"""Reading a network: lenses on the residual stream, circuits of attention heads.

``site_lens(model, model.tokens(text))`` reads one text; of a store, ``logit_lens(store, model)``
measures every layer and ``lens_grid`` shows one document. ``probe_sweep`` asks what is linearly
there. Names are resolved on first use, so importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.probes, not as {__name__}")

if TYPE_CHECKING:
    from lensbench.probes.boards.data import board_data as board_data
    from lensbench.probes.boards.fit import board_probes as board_probes
    from lensbench.probes.boards.flip import BoardFlips as BoardFlips
    from lensbench.probes.boards.flip import flip_study as flip_study
    from lensbench.probes.boards.result import BoardProbes as BoardProbes
    from lensbench.probes.circuits.attribution import LogitAttribution as LogitAttribution
    from lensbench.probes.circuits.attribution import (
        direct_logit_attribution as direct_logit_attribution,
    )
    from lensbench.probes.circuits.attribution_check import (
        LogitAttributionCheck as LogitAttributionCheck,
    )
    from lensbench.probes.circuits.composition import CompositionScores as CompositionScores
    from lensbench.probes.circuits.composition import composition_scores as composition_scores
    from lensbench.probes.circuits.heads import HeadScores as HeadScores
    from lensbench.probes.circuits.heads import head_scores as head_scores
    from lensbench.probes.circuits.weights import full_ov_circuit as full_ov_circuit
    from lensbench.probes.circuits.weights import full_qk_circuit as full_qk_circuit
    from lensbench.probes.circuits.weights import ov_circuit as ov_circuit
    from lensbench.probes.circuits.weights import qk_circuit as qk_circuit
    from lensbench.probes.erasure.check import ErasureCheck as ErasureCheck
    from lensbench.probes.erasure.check import erasure_check as erasure_check
    from lensbench.probes.erasure.eraser import Eraser as Eraser
    from lensbench.probes.erasure.eraser import fit_eraser as fit_eraser
    from lensbench.probes.geometry.aligned import SentencePair as SentencePair
    from lensbench.probes.geometry.aligned import align as align
    from lensbench.probes.geometry.aligned import aligned_distances as aligned_distances
    from lensbench.probes.geometry.aligned_result import AlignedDistances as AlignedDistances
    from lensbench.probes.geometry.anisotropy import Anisotropy as Anisotropy
    from lensbench.probes.geometry.anisotropy import anisotropy as anisotropy
    from lensbench.probes.geometry.anisotropy import anisotropy_of as anisotropy_of
    from lensbench.probes.geometry.codes import activation_codes as activation_codes
    from lensbench.probes.geometry.codes import expected_redundancy as expected_redundancy
    from lensbench.probes.geometry.codes import hidden_units as hidden_units
    from lensbench.probes.geometry.codes import redundancy as redundancy
    from lensbench.probes.geometry.dimension import IntrinsicDimension as IntrinsicDimension
    from lensbench.probes.geometry.dimension import intrinsic_dimension as intrinsic_dimension
    from lensbench.probes.geometry.estimators import gride as gride
    from lensbench.probes.geometry.estimators import two_nn as two_nn
    from lensbench.probes.geometry.filtering import LengthProfile as LengthProfile
    from lensbench.probes.geometry.filtering import length_profile as length_profile
    from lensbench.probes.geometry.hashing import HashCodes as HashCodes
    from lensbench.probes.geometry.hashing import hash_codes as hash_codes
    from lensbench.probes.geometry.hashing import phase_chart as phase_chart
    from lensbench.probes.geometry.hashing import store_codes as store_codes
    from lensbench.probes.geometry.neighbourhoods import Neighbourhoods as Neighbourhoods
    from lensbench.probes.geometry.neighbourhoods import (
        information_imbalance as information_imbalance,
    )
    from lensbench.probes.geometry.neighbourhoods import neighbourhoods as neighbourhoods
    from lensbench.probes.geometry.stores import checkpoint_stores as checkpoint_stores
    from lensbench.probes.geometry.stores import control_stores as control_stores
    from lensbench.probes.hd.atlas import atlas_prompts as atlas_prompts
    from lensbench.probes.hd.capacity import CapacityCurve as CapacityCurve
    from lensbench.probes.hd.capacity import capacity_curve as capacity_curve
    from lensbench.probes.hd.encoder import EncoderConfig as EncoderConfig
    from lensbench.probes.hd.encoder import HDEncoder as HDEncoder
    from lensbench.probes.hd.encoder import fit_encoder as fit_encoder
    from lensbench.probes.hd.failures import FailureFlagging as FailureFlagging
    from lensbench.probes.hd.failures import flag_failures as flag_failures
    from lensbench.probes.hd.ingest import ingest_layers as ingest_layers
    from lensbench.probes.hd.ingest import prompt_states as prompt_states
    from lensbench.probes.hd.ingest import stored_states as stored_states
    from lensbench.probes.hd.memory import ItemMemory as ItemMemory
    from lensbench.probes.hd.probe import HDReading as HDReading
    from lensbench.probes.hd.probe import read_concepts as read_concepts
    from lensbench.probes.hd.prompts import ConceptPrompts as ConceptPrompts
    from lensbench.probes.hd.prompts import from_analogies as from_analogies
    from lensbench.probes.hd.resonator import explain_bundle as explain_bundle
    from lensbench.probes.hd.resonator import factorise as factorise
    from lensbench.probes.hd.spaces import SPACES as SPACES
    from lensbench.probes.hd.spaces import space_named as space_named
    from lensbench.probes.hd.study import hd_study as hd_study
    from lensbench.probes.hd.study_result import HDStudy as HDStudy
    from lensbench.probes.information.angles import SubspaceAngles as SubspaceAngles
    from lensbench.probes.information.angles import subspace_angles as subspace_angles
    from lensbench.probes.information.codelength import codelength as codelength
    from lensbench.probes.information.result import Codelengths as Codelengths
    from lensbench.probes.lenses.components import component_lens as component_lens
    from lensbench.probes.lenses.contrastive.answers import AnswerScores as AnswerScores
    from lensbench.probes.lenses.contrastive.answers import score_answers as score_answers
    from lensbench.probes.lenses.contrastive.decode import ContrastiveText as ContrastiveText
    from lensbench.probes.lenses.contrastive.decode import contrastive_decode as contrastive_decode
    from lensbench.probes.lenses.contrastive.layers import DeCo as DeCo
    from lensbench.probes.lenses.contrastive.layers import DoLa as DoLa
    from lensbench.probes.lenses.contrastive.prompts import SH2 as SH2
    from lensbench.probes.lenses.contrastive.prompts import ContextAware as ContextAware
    from lensbench.probes.lenses.contrastive.prompts import (
        ContrastiveDecoding as ContrastiveDecoding,
    )
    from lensbench.probes.lenses.contrastive.prompts import hesitation_prompt as hesitation_prompt
    from lensbench.probes.lenses.decoder.lens import decoder_lens as decoder_lens
    from lensbench.probes.lenses.decoder.result import DecoderLens as DecoderLens
    from lensbench.probes.lenses.future.grid import FutureGrid as FutureGrid
    from lensbench.probes.lenses.future.grid import future_grid as future_grid
    from lensbench.probes.lenses.future.layers import transplant_layers as transplant_layers
    from lensbench.probes.lenses.future.layers_result import TransplantLayers as TransplantLayers
    from lensbench.probes.lenses.future.lens import FutureLens as FutureLens
    from lensbench.probes.lenses.future.linear import fit_future_lens as fit_future_lens
    from lensbench.probes.lenses.future.prompts import identity_prompt as identity_prompt
    from lensbench.probes.lenses.future.prompts import placeholder_prompt as placeholder_prompt
    from lensbench.probes.lenses.future.result import Transplant as Transplant
    from lensbench.probes.lenses.future.score_result import FutureScores as FutureScores
    from lensbench.probes.lenses.future.scores import future_scores as future_scores
    from lensbench.probes.lenses.future.soft import SoftPrompts as SoftPrompts
    from lensbench.probes.lenses.future.soft import train_soft_prompts as train_soft_prompts
    from lensbench.probes.lenses.future.spots import Affine as Affine
    from lensbench.probes.lenses.future.spots import Spot as Spot
    from lensbench.probes.lenses.future.transplant import transplant as transplant
    from lensbench.probes.lenses.future.transplant import transplant_logits as transplant_logits
    from lensbench.probes.lenses.grid import LensGrid as LensGrid
    from lensbench.probes.lenses.grid import lens_grid as lens_grid
    from lensbench.probes.lenses.language.energy import TokenEnergy as TokenEnergy
    from lensbench.probes.lenses.language.measure import latent_language as latent_language
    from lensbench.probes.lenses.language.prompts import translation_prompts as translation_prompts
    from lensbench.probes.lenses.language.result import LatentLanguage as LatentLanguage
    from lensbench.probes.lenses.language.sets import word_tokens as word_tokens
    from lensbench.probes.lenses.logit import LensTrajectory as LensTrajectory
    from lensbench.probes.lenses.logit import UnembedReadout as UnembedReadout
    from lensbench.probes.lenses.logit import logit_lens as logit_lens
    from lensbench.probes.lenses.neurons.agreement import NeuronAgreement as NeuronAgreement
    from lensbench.probes.lenses.neurons.agreement import neuron_agreement as neuron_agreement
    from lensbench.probes.lenses.neurons.decode import NeuronTable as NeuronTable
    from lensbench.probes.lenses.neurons.decode import decode_neurons as decode_neurons
    from lensbench.probes.lenses.readings import SiteLens as SiteLens
    from lensbench.probes.lenses.rift.measure import prior_context as prior_context
    from lensbench.probes.lenses.rift.result import PriorContext as PriorContext
    from lensbench.probes.lenses.rift.successors import BigramPrior as BigramPrior
    from lensbench.probes.lenses.sites import site_lens as site_lens
    from lensbench.probes.lenses.states import states_of_store as states_of_store
    from lensbench.probes.lenses.states import states_of_text as states_of_text
    from lensbench.probes.lenses.tokens import TokenLens as TokenLens
    from lensbench.probes.lenses.tuned.basis import causal_basis as causal_basis
    from lensbench.probes.lenses.tuned.basis import check_basis as check_basis
    from lensbench.probes.lenses.tuned.comparison import LensComparison as LensComparison
    from lensbench.probes.lenses.tuned.comparison import compare_lenses as compare_lenses
    from lensbench.probes.lenses.tuned.config import TunedLensConfig as TunedLensConfig
    from lensbench.probes.lenses.tuned.files import load_tuned_lens as load_tuned_lens
    from lensbench.probes.lenses.tuned.files import save_tuned_lens as save_tuned_lens
    from lensbench.probes.lenses.tuned.lens import TunedLens as TunedLens
    from lensbench.probes.lenses.tuned.training import train_tuned_lens as train_tuned_lens
    from lensbench.probes.linear.data import ProbeData as ProbeData
    from lensbench.probes.linear.data import probe_data as probe_data
    from lensbench.probes.linear.fit import fit_probe as fit_probe
    from lensbench.probes.linear.probe import LinearProbe as LinearProbe
    from lensbench.probes.linear.sweep import probe_sweep as probe_sweep
    from lensbench.probes.linear.sweep_result import ProbeSweep as ProbeSweep
    from lensbench.probes.numbers.atlas import atlas_comparisons as atlas_comparisons
    from lensbench.probes.numbers.atlas import atlas_numbers as atlas_numbers
    from lensbench.probes.numbers.flips import ComparisonFlips as ComparisonFlips
    from lensbench.probes.numbers.flips import Comparisons as Comparisons
    from lensbench.probes.numbers.flips import comparison_flips as comparison_flips
    from lensbench.probes.numbers.result import AttributeSubspaces as AttributeSubspaces
    from lensbench.probes.numbers.subspace import attribute_subspaces as attribute_subspaces
    from lensbench.probes.saliency.attribute import attribute_tokens as attribute_tokens
    from lensbench.probes.saliency.faithful import Faithfulness as Faithfulness
    from lensbench.probes.saliency.faithful import faithfulness as faithfulness
    from lensbench.probes.saliency.perturbed import ReagentSettings as ReagentSettings
    from lensbench.probes.saliency.result import TokenAttribution as TokenAttribution
    from lensbench.probes.structure.edges import EdgeProbes as EdgeProbes
    from lensbench.probes.structure.edges import edge_data as edge_data
    from lensbench.probes.structure.edges import edge_probe as edge_probe
    from lensbench.probes.structure.probe import structural_probe as structural_probe
    from lensbench.probes.structure.result import StructuralProbes as StructuralProbes
    from lensbench.probes.structure.words import WordStates as WordStates
    from lensbench.probes.structure.words import word_states as word_states

_NAMES = {
    "structure.edges": "EdgeProbes edge_data edge_probe",
    "structure.result": "StructuralProbes",
    "structure.probe": "structural_probe",
    "structure.words": "WordStates word_states",
    "numbers.result": "AttributeSubspaces",
    "numbers.subspace": "attribute_subspaces",
    "numbers.flips": "ComparisonFlips Comparisons comparison_flips",
    "numbers.atlas": "atlas_comparisons atlas_numbers",
    "saliency.attribute": "attribute_tokens",
    "saliency.faithful": "Faithfulness faithfulness",
    "saliency.perturbed": "ReagentSettings",
    "saliency.result": "TokenAttribution",
    "information.result": "Codelengths",
    "information.codelength": "codelength",
    "boards.flip": "BoardFlips flip_study",
    "boards.result": "BoardProbes",
    "boards.fit": "board_probes",
    "boards.data": "board_data",
    "erasure.check": "ErasureCheck erasure_check",
    "erasure.eraser": "Eraser fit_eraser",
    "information.angles": "SubspaceAngles subspace_angles",
    "linear.probe": "LinearProbe",
    "linear.sweep_result": "ProbeSweep",
    "linear.sweep": "probe_sweep",
    "linear.data": "ProbeData probe_data",
    "linear.fit": "fit_probe",
    "circuits.composition": "CompositionScores composition_scores",
    "circuits.heads": "HeadScores head_scores",
    "circuits.attribution": "LogitAttribution direct_logit_attribution",
    "circuits.attribution_check": "LogitAttributionCheck",
    "circuits.weights": "full_ov_circuit full_qk_circuit ov_circuit qk_circuit",
    "hd.atlas": "atlas_prompts",
    "hd.capacity": "CapacityCurve capacity_curve",
    "hd.encoder": "EncoderConfig HDEncoder fit_encoder",
    "hd.failures": "FailureFlagging flag_failures",
    "hd.ingest": "ingest_layers prompt_states stored_states",
    "hd.memory": "ItemMemory",
    "hd.probe": "HDReading read_concepts",
    "hd.prompts": "ConceptPrompts from_analogies",
    "hd.resonator": "explain_bundle factorise",
    "hd.spaces": "SPACES space_named",
    "hd.study": "hd_study",
    "hd.study_result": "HDStudy",
    "geometry.aligned": "SentencePair align aligned_distances",
    "geometry.aligned_result": "AlignedDistances",
    "geometry.anisotropy": "Anisotropy anisotropy anisotropy_of",
    "geometry.codes": "activation_codes expected_redundancy hidden_units redundancy",
    "geometry.dimension": "IntrinsicDimension intrinsic_dimension",
    "geometry.estimators": "gride two_nn",
    "geometry.filtering": "LengthProfile length_profile",
    "geometry.hashing": "HashCodes hash_codes phase_chart store_codes",
    "geometry.neighbourhoods": "Neighbourhoods information_imbalance neighbourhoods",
    "geometry.stores": "checkpoint_stores control_stores",
    "lenses.contrastive.answers": "AnswerScores score_answers",
    "lenses.contrastive.prompts": "ContextAware ContrastiveDecoding SH2 hesitation_prompt",
    "lenses.contrastive.decode": "ContrastiveText contrastive_decode",
    "lenses.contrastive.layers": "DeCo DoLa",
    "lenses.decoder.result": "DecoderLens",
    "lenses.decoder.lens": "decoder_lens",
    "lenses.future.layers": "transplant_layers",
    "lenses.future.layers_result": "TransplantLayers",
    "lenses.future.transplant": "transplant transplant_logits",
    "lenses.future.result": "Transplant",
    "lenses.future.spots": "Affine Spot",
    "lenses.future.prompts": "identity_prompt placeholder_prompt",
    "lenses.future.linear": "fit_future_lens",
    "lenses.future.lens": "FutureLens",
    "lenses.future.soft": "SoftPrompts train_soft_prompts",
    "lenses.future.scores": "future_scores",
    "lenses.future.score_result": "FutureScores",
    "lenses.future.grid": "FutureGrid future_grid",
    "lenses.grid": "LensGrid lens_grid",
    "lenses.language.result": "LatentLanguage",
    "lenses.language.energy": "TokenEnergy",
    "lenses.language.measure": "latent_language",
    "lenses.language.prompts": "translation_prompts",
    "lenses.language.sets": "word_tokens",
    "lenses.logit": "LensTrajectory UnembedReadout logit_lens",
    "lenses.readings": "SiteLens",
    "lenses.components": "component_lens",
    "lenses.sites": "site_lens",
    "lenses.tokens": "TokenLens",
    "lenses.tuned.basis": "causal_basis check_basis",
    "lenses.tuned.comparison": "LensComparison compare_lenses",
    "lenses.tuned.config": "TunedLensConfig",
    "lenses.tuned.files": "load_tuned_lens save_tuned_lens",
    "lenses.tuned.lens": "TunedLens",
    "lenses.tuned.training": "train_tuned_lens",
    "lenses.neurons.agreement": "NeuronAgreement neuron_agreement",
    "lenses.neurons.decode": "NeuronTable decode_neurons",
    "lenses.rift.successors": "BigramPrior",
    "lenses.rift.result": "PriorContext",
    "lenses.rift.measure": "prior_context",
    "lenses.states": "states_of_store states_of_text",
}
"""What each module gives."""
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME)
