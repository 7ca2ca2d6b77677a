"""Changing a forward pass to find out what it depends on: patching, ablation and what follows.

``patch_sweep(model, pairs)`` patches every layer and position from one run into the other;
``ablation_sweep`` takes places out; ``steer`` adds a direction, such as a ``latent_direction``, and
``generate_beside`` says what becomes of a text; ``interventions.experts`` tunes mixtures of
experts, and ``interventions.acceleration`` predicts and measures early exits, drafts and skipped
layers. Names are resolved on first use, so importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.interventions, not as {__name__}")

if TYPE_CHECKING:
    from lensbench.interventions import acceleration as acceleration
    from lensbench.interventions import experts as experts
    from lensbench.interventions.attribution.check import AttributionCheck as AttributionCheck
    from lensbench.interventions.attribution.curve import CircuitCurve as CircuitCurve
    from lensbench.interventions.attribution.edge_result import EdgeResult as EdgeResult
    from lensbench.interventions.attribution.edges import attribute_edges as attribute_edges
    from lensbench.interventions.attribution.faithful import faithfulness as faithfulness
    from lensbench.interventions.attribution.nodes import attribute as attribute
    from lensbench.interventions.attribution.paths import path_patch as path_patch
    from lensbench.interventions.attribution.pruning import PrunedCircuit as PrunedCircuit
    from lensbench.interventions.attribution.pruning import acdc as acdc
    from lensbench.interventions.attribution.result import AttributionResult as AttributionResult
    from lensbench.interventions.attribution.scrub_result import ScrubResult as ScrubResult
    from lensbench.interventions.attribution.scrubbing import Claim as Claim
    from lensbench.interventions.attribution.scrubbing import causal_scrub as causal_scrub
    from lensbench.interventions.experts.report import ExpertReport as ExpertReport
    from lensbench.interventions.experts.scan import expert_scan as expert_scan
    from lensbench.interventions.experts.study import expert_study as expert_study
    from lensbench.interventions.graphs.build import attribution_graph as attribution_graph
    from lensbench.interventions.graphs.check import GraphCheck as GraphCheck
    from lensbench.interventions.graphs.curves import circuit_curve as circuit_curve
    from lensbench.interventions.graphs.effects_result import LatentEffects as LatentEffects
    from lensbench.interventions.graphs.effects_result import latent_effects as latent_effects
    from lensbench.interventions.graphs.faithful import LatentCircuitCurve as LatentCircuitCurve
    from lensbench.interventions.graphs.feature_attribution import (
        direct_feature_attribution as direct_feature_attribution,
    )
    from lensbench.interventions.graphs.feature_check import FeatureCheck as FeatureCheck
    from lensbench.interventions.graphs.feature_patching import FeaturePatching as FeaturePatching
    from lensbench.interventions.graphs.feature_patching import feature_patching as feature_patching
    from lensbench.interventions.graphs.feature_result import (
        FeatureAttribution as FeatureAttribution,
    )
    from lensbench.interventions.graphs.items import ReadingItems as ReadingItems
    from lensbench.interventions.graphs.items import reading_items as reading_items
    from lensbench.interventions.graphs.readings import garden_path_circuits as garden_path_circuits
    from lensbench.interventions.graphs.readings_result import GardenPathStudy as GardenPathStudy
    from lensbench.interventions.graphs.result import LatentGraph as LatentGraph
    from lensbench.interventions.metrics import METRICS as METRICS
    from lensbench.interventions.metrics import Metric as Metric
    from lensbench.interventions.patching.ablation import ablation_sweep as ablation_sweep
    from lensbench.interventions.patching.check import PlaceCheck as PlaceCheck
    from lensbench.interventions.patching.result import PatchingResult as PatchingResult
    from lensbench.interventions.patching.sweep import patch_sweep as patch_sweep
    from lensbench.interventions.places import Place as Place
    from lensbench.interventions.places import places as places
    from lensbench.interventions.selection.answers import answer_entropy as answer_entropy
    from lensbench.interventions.selection.answers import token_probability as token_probability
    from lensbench.interventions.selection.attributes import attribute_effects as attribute_effects
    from lensbench.interventions.selection.confounds import ConfoundReport as ConfoundReport
    from lensbench.interventions.selection.confounds import confounds as confounds
    from lensbench.interventions.selection.entities import EntityPrompts as EntityPrompts
    from lensbench.interventions.selection.entities import entities_of_pairs as entities_of_pairs
    from lensbench.interventions.selection.entities import entity_prompts as entity_prompts
    from lensbench.interventions.selection.result import LatentSeparation as LatentSeparation
    from lensbench.interventions.selection.separation import entity_separation as entity_separation
    from lensbench.interventions.selection.separation import separation as separation
    from lensbench.interventions.selection.sibling import sibling_study as sibling_study
    from lensbench.interventions.selection.sibling_result import SiblingStudy as SiblingStudy
    from lensbench.interventions.selection.study import selection_study as selection_study
    from lensbench.interventions.selection.study_result import SelectionStudy as SelectionStudy
    from lensbench.interventions.steering.beside import generate_beside as generate_beside
    from lensbench.interventions.steering.beside_result import SideBySide as SideBySide
    from lensbench.interventions.steering.clamped import clamped_latent as clamped_latent
    from lensbench.interventions.steering.contrast import Contrast as Contrast
    from lensbench.interventions.steering.contrast import contrast_states as contrast_states
    from lensbench.interventions.steering.contrast import towards as towards
    from lensbench.interventions.steering.controls import random_directions as random_directions
    from lensbench.interventions.steering.direction import Direction as Direction
    from lensbench.interventions.steering.direction import probe_direction as probe_direction
    from lensbench.interventions.steering.dose import dose_curve as dose_curve
    from lensbench.interventions.steering.dose_result import SteeringResult as SteeringResult
    from lensbench.interventions.steering.effects import OfText as OfText
    from lensbench.interventions.steering.neurons import NeuronClamps as NeuronClamps
    from lensbench.interventions.steering.neurons import neuron_clamps as neuron_clamps
    from lensbench.interventions.steering.orthogonal import orthogonalised as orthogonalised
    from lensbench.interventions.steering.plans import ablate as ablate
    from lensbench.interventions.steering.plans import clamp_latent as clamp_latent
    from lensbench.interventions.steering.plans import clamp_neuron as clamp_neuron
    from lensbench.interventions.steering.plans import every_write as every_write
    from lensbench.interventions.steering.plans import steer as steer
    from lensbench.interventions.steering.sources import activation_addition as activation_addition
    from lensbench.interventions.steering.sources import in_context_vector as in_context_vector
    from lensbench.interventions.steering.sources import latent_direction as latent_direction
    from lensbench.interventions.subspace.das import AlignedSubspace as AlignedSubspace
    from lensbench.interventions.subspace.das import align_subspace as align_subspace
    from lensbench.interventions.subspace.edit_result import EditStudy as EditStudy
    from lensbench.interventions.subspace.edit_study import edit_study as edit_study
    from lensbench.interventions.subspace.fact_edit import fact_edit as fact_edit
    from lensbench.interventions.subspace.keys import second_moment as second_moment
    from lensbench.interventions.subspace.next_map import next_map as next_map
    from lensbench.interventions.subspace.patch import subspace_patch as subspace_patch
    from lensbench.interventions.subspace.patch_as_edit import edit_of_patch as edit_of_patch
    from lensbench.interventions.subspace.patch_as_edit import patch_of_edit as patch_of_edit
    from lensbench.interventions.subspace.rank_one import RankOneEdit as RankOneEdit
    from lensbench.interventions.subspace.rank_one import rank_one_edit as rank_one_edit
    from lensbench.interventions.subspace.result import SubspaceResult as SubspaceResult
    from lensbench.interventions.training.clamps import ClampCopy as ClampCopy
    from lensbench.interventions.training.clamps import ClampMatch as ClampMatch
    from lensbench.interventions.training.clamps import ClampOffset as ClampOffset
    from lensbench.interventions.training.preserving import preserve_patterns as preserve_patterns
    from lensbench.interventions.training.rank_one import rank_one_training as rank_one_training
    from lensbench.interventions.training.result import ClampedTraining as ClampedTraining
    from lensbench.interventions.training.sequences import Exemplars as Exemplars
    from lensbench.interventions.training.sequences import Sequences as Sequences
    from lensbench.interventions.training.sequences import attention_only as attention_only
    from lensbench.interventions.training.train import train_clamped as train_clamped

_HOME = {
    "AttributionCheck": "attribution.check",
    "EdgeResult": "attribution.edge_result",
    "attribute_edges": "attribution.edges",
    "CircuitCurve": "attribution.curve",
    "faithfulness": "attribution.faithful",
    "attribute": "attribution.nodes",
    "path_patch": "attribution.paths",
    "PrunedCircuit": "attribution.pruning",
    "acdc": "attribution.pruning",
    "AttributionResult": "attribution.result",
    "ScrubResult": "attribution.scrub_result",
    "Claim": "attribution.scrubbing",
    "causal_scrub": "attribution.scrubbing",
    "ExpertReport": "experts.report",
    "expert_scan": "experts.scan",
    "expert_study": "experts.study",
    "attribution_graph": "graphs.build",
    "GraphCheck": "graphs.check",
    "circuit_curve": "graphs.curves",
    "LatentEffects": "graphs.effects_result",
    "latent_effects": "graphs.effects_result",
    "LatentCircuitCurve": "graphs.faithful",
    "direct_feature_attribution": "graphs.feature_attribution",
    "FeatureCheck": "graphs.feature_check",
    "FeaturePatching": "graphs.feature_patching",
    "feature_patching": "graphs.feature_patching",
    "FeatureAttribution": "graphs.feature_result",
    "ReadingItems": "graphs.items",
    "reading_items": "graphs.items",
    "garden_path_circuits": "graphs.readings",
    "GardenPathStudy": "graphs.readings_result",
    "LatentGraph": "graphs.result",
    "METRICS": "metrics",
    "Metric": "metrics",
    "ablation_sweep": "patching.ablation",
    "PatchingResult": "patching.result",
    "PlaceCheck": "patching.check",
    "patch_sweep": "patching.sweep",
    "Place": "places",
    "places": "places",
    "answer_entropy": "selection.answers",
    "token_probability": "selection.answers",
    "attribute_effects": "selection.attributes",
    "ConfoundReport": "selection.confounds",
    "confounds": "selection.confounds",
    "EntityPrompts": "selection.entities",
    "entities_of_pairs": "selection.entities",
    "entity_prompts": "selection.entities",
    "LatentSeparation": "selection.result",
    "entity_separation": "selection.separation",
    "separation": "selection.separation",
    "sibling_study": "selection.sibling",
    "SiblingStudy": "selection.sibling_result",
    "selection_study": "selection.study",
    "SelectionStudy": "selection.study_result",
    "generate_beside": "steering.beside",
    "SideBySide": "steering.beside_result",
    "clamped_latent": "steering.clamped",
    "Contrast": "steering.contrast",
    "contrast_states": "steering.contrast",
    "towards": "steering.contrast",
    "random_directions": "steering.controls",
    "Direction": "steering.direction",
    "probe_direction": "steering.direction",
    "dose_curve": "steering.dose",
    "SteeringResult": "steering.dose_result",
    "OfText": "steering.effects",
    "NeuronClamps": "steering.neurons",
    "neuron_clamps": "steering.neurons",
    "orthogonalised": "steering.orthogonal",
    "ablate": "steering.plans",
    "clamp_latent": "steering.plans",
    "clamp_neuron": "steering.plans",
    "every_write": "steering.plans",
    "steer": "steering.plans",
    "activation_addition": "steering.sources",
    "in_context_vector": "steering.sources",
    "latent_direction": "steering.sources",
    "AlignedSubspace": "subspace.das",
    "align_subspace": "subspace.das",
    "EditStudy": "subspace.edit_result",
    "edit_study": "subspace.edit_study",
    "fact_edit": "subspace.fact_edit",
    "second_moment": "subspace.keys",
    "next_map": "subspace.next_map",
    "subspace_patch": "subspace.patch",
    "edit_of_patch": "subspace.patch_as_edit",
    "patch_of_edit": "subspace.patch_as_edit",
    "RankOneEdit": "subspace.rank_one",
    "rank_one_edit": "subspace.rank_one",
    "SubspaceResult": "subspace.result",
    "ClampCopy": "training.clamps",
    "ClampMatch": "training.clamps",
    "ClampOffset": "training.clamps",
    "preserve_patterns": "training.preserving",
    "rank_one_training": "training.rank_one",
    "ClampedTraining": "training.result",
    "Exemplars": "training.sequences",
    "Sequences": "training.sequences",
    "attention_only": "training.sequences",
    "train_clamped": "training.train",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME, ("acceleration", "experts"))
