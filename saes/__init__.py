"""Dictionaries: train many on one stream of activations, save, load, evaluate, look inside.

``train(source, sweep)`` gives one :class:`SAERun` per dictionary, ``evaluate`` compares them,
``active_latents(run, model, text)`` says which latents a text wakes (its help goes on to steering),
``dashboards`` looks at some; ``save`` and ``load`` know the formats of SAELens and its peers.
Names are resolved on first use, so importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.saes, not as {__name__}")

if TYPE_CHECKING:
    from lensbench.saes.architectures import BatchTopKConfig as BatchTopKConfig
    from lensbench.saes.architectures import GatedConfig as GatedConfig
    from lensbench.saes.architectures import JumpReLUConfig as JumpReLUConfig
    from lensbench.saes.architectures import MatryoshkaConfig as MatryoshkaConfig
    from lensbench.saes.architectures import PAnnealConfig as PAnnealConfig
    from lensbench.saes.architectures import ReLUConfig as ReLUConfig
    from lensbench.saes.architectures import TiedConfig as TiedConfig
    from lensbench.saes.architectures import TopKConfig as TopKConfig
    from lensbench.saes.configs import SweepConfig as SweepConfig
    from lensbench.saes.configs import TrainConfig as TrainConfig
    from lensbench.saes.crosscoder import Crosscoder as Crosscoder
    from lensbench.saes.evaluation.absorption import absorption as absorption
    from lensbench.saes.evaluation.absorption_result import Absorption as Absorption
    from lensbench.saes.evaluation.against_sae_lens import PeerComparison as PeerComparison
    from lensbench.saes.evaluation.against_sae_lens import against_sae_lens as against_sae_lens
    from lensbench.saes.evaluation.attributes import AttributePrompts as AttributePrompts
    from lensbench.saes.evaluation.attributes import atlas_attributes as atlas_attributes
    from lensbench.saes.evaluation.coverage import LabelCoverage as LabelCoverage
    from lensbench.saes.evaluation.coverage import coverage as coverage
    from lensbench.saes.evaluation.evaluate import EvaluationConfig as EvaluationConfig
    from lensbench.saes.evaluation.evaluate import evaluate as evaluate
    from lensbench.saes.evaluation.implants import ImplantRecovery as ImplantRecovery
    from lensbench.saes.evaluation.implants import implant_recovery as implant_recovery
    from lensbench.saes.evaluation.inputs import label_rows as label_rows
    from lensbench.saes.evaluation.isolation import attribute_isolation as attribute_isolation
    from lensbench.saes.evaluation.isolation_result import AttributeIsolation as AttributeIsolation
    from lensbench.saes.evaluation.kept import open_evaluation as open_evaluation
    from lensbench.saes.evaluation.meta import MetaStructure as MetaStructure
    from lensbench.saes.evaluation.meta import meta_sae as meta_sae
    from lensbench.saes.evaluation.passes import Dictionary as Dictionary
    from lensbench.saes.evaluation.probing import SparseProbing as SparseProbing
    from lensbench.saes.evaluation.probing import sparse_probing as sparse_probing
    from lensbench.saes.evaluation.result import SAEEvaluation as SAEEvaluation
    from lensbench.saes.evaluation.scr import SpuriousRemoval as SpuriousRemoval
    from lensbench.saes.evaluation.scr import scr as scr
    from lensbench.saes.evaluation.seeds import DictionaryMatch as DictionaryMatch
    from lensbench.saes.evaluation.seeds import NearestLatents as NearestLatents
    from lensbench.saes.evaluation.seeds import match_dictionaries as match_dictionaries
    from lensbench.saes.evaluation.seeds import nearest_latents as nearest_latents
    from lensbench.saes.evaluation.splitting import FeatureSplitting as FeatureSplitting
    from lensbench.saes.evaluation.splitting import feature_splitting as feature_splitting
    from lensbench.saes.evaluation.tpp import TargetedPerturbation as TargetedPerturbation
    from lensbench.saes.evaluation.tpp import tpp as tpp
    from lensbench.saes.explanations.asked import EndpointExplainer as EndpointExplainer
    from lensbench.saes.explanations.asked import EndpointJudge as EndpointJudge
    from lensbench.saes.explanations.contexts import ContextConfig as ContextConfig
    from lensbench.saes.explanations.endpoint import Endpoint as Endpoint
    from lensbench.saes.explanations.explain import explain as explain
    from lensbench.saes.explanations.explainers import Explanation as Explanation
    from lensbench.saes.explanations.explainers import TokenExplainer as TokenExplainer
    from lensbench.saes.explanations.judges import RuleJudge as RuleJudge
    from lensbench.saes.explanations.result import LatentExplanations as LatentExplanations
    from lensbench.saes.formats import load as load
    from lensbench.saes.formats import save as save
    from lensbench.saes.hub import pull_from_hub as pull_from_hub
    from lensbench.saes.hub import push_to_hub as push_to_hub
    from lensbench.saes.latents.active import active_latents as active_latents
    from lensbench.saes.latents.active_result import ActiveLatents as ActiveLatents
    from lensbench.saes.latents.dashboard import DashboardConfig as DashboardConfig
    from lensbench.saes.latents.dashboard import dashboards as dashboards
    from lensbench.saes.latents.dashboard import logit_effects as logit_effects
    from lensbench.saes.latents.decoder_map import DecoderMap as DecoderMap
    from lensbench.saes.latents.decoder_map import decoder_map as decoder_map
    from lensbench.saes.latents.directions import difference_direction as difference_direction
    from lensbench.saes.latents.directions import read_direction as read_direction
    from lensbench.saes.latents.directions import token_direction as token_direction
    from lensbench.saes.latents.encoding import encode_store as encode_store
    from lensbench.saes.latents.geometry import DecoderGeometry as DecoderGeometry
    from lensbench.saes.latents.geometry import decoder_geometry as decoder_geometry
    from lensbench.saes.latents.notes import LatentNotes as LatentNotes
    from lensbench.saes.latents.notes import notes as notes
    from lensbench.saes.latents.result import LatentDashboard as LatentDashboard
    from lensbench.saes.latents.store import LatentStore as LatentStore
    from lensbench.saes.latents.store import open_latents as open_latents
    from lensbench.saes.runs import SAERun as SAERun
    from lensbench.saes.runs import open_runs as open_runs
    from lensbench.saes.sae import SAE as SAE
    from lensbench.saes.sharing import SharedLatents as SharedLatents
    from lensbench.saes.sharing import compare_sites as compare_sites
    from lensbench.saes.training.forecast import dry_run as dry_run
    from lensbench.saes.training.forecast import plan_memory as plan_memory
    from lensbench.saes.training.trainer import train as train
    from lensbench.saes.transcoder import Transcoder as Transcoder
    from lensbench.saes.wrapped import WrappedSAE as WrappedSAE

_HOME = {
    "BatchTopKConfig": "architectures",
    "GatedConfig": "architectures",
    "JumpReLUConfig": "architectures",
    "MatryoshkaConfig": "architectures",
    "PAnnealConfig": "architectures",
    "ReLUConfig": "architectures",
    "TiedConfig": "architectures",
    "TopKConfig": "architectures",
    "label_rows": "evaluation.inputs",
    "DictionaryMatch": "evaluation.seeds",
    "NearestLatents": "evaluation.seeds",
    "match_dictionaries": "evaluation.seeds",
    "nearest_latents": "evaluation.seeds",
    "SparseProbing": "evaluation.probing",
    "sparse_probing": "evaluation.probing",
    "MetaStructure": "evaluation.meta",
    "meta_sae": "evaluation.meta",
    "Absorption": "evaluation.absorption_result",
    "absorption": "evaluation.absorption",
    "AttributeIsolation": "evaluation.isolation_result",
    "AttributePrompts": "evaluation.attributes",
    "atlas_attributes": "evaluation.attributes",
    "attribute_isolation": "evaluation.isolation",
    "FeatureSplitting": "evaluation.splitting",
    "feature_splitting": "evaluation.splitting",
    "PeerComparison": "evaluation.against_sae_lens",
    "against_sae_lens": "evaluation.against_sae_lens",
    "LabelCoverage": "evaluation.coverage",
    "coverage": "evaluation.coverage",
    "SpuriousRemoval": "evaluation.scr",
    "scr": "evaluation.scr",
    "TargetedPerturbation": "evaluation.tpp",
    "tpp": "evaluation.tpp",
    "ImplantRecovery": "evaluation.implants",
    "implant_recovery": "evaluation.implants",
    "ContextConfig": "explanations.contexts",
    "Endpoint": "explanations.endpoint",
    "EndpointExplainer": "explanations.asked",
    "EndpointJudge": "explanations.asked",
    "Explanation": "explanations.explainers",
    "LatentExplanations": "explanations.result",
    "RuleJudge": "explanations.judges",
    "TokenExplainer": "explanations.explainers",
    "explain": "explanations.explain",
    "ActiveLatents": "latents.active_result",
    "active_latents": "latents.active",
    "logit_effects": "latents.dashboard",
    "DashboardConfig": "latents.dashboard",
    "LatentDashboard": "latents.result",
    "SAEEvaluation": "evaluation.result",
    "EvaluationConfig": "evaluation.evaluate",
    "Dictionary": "evaluation.passes",
    "SweepConfig": "configs",
    "TrainConfig": "configs",
    "dashboards": "latents.dashboard",
    "dry_run": "training.forecast",
    "encode_store": "latents.encoding",
    "DecoderGeometry": "latents.geometry",
    "decoder_geometry": "latents.geometry",
    "DecoderMap": "latents.decoder_map",
    "decoder_map": "latents.decoder_map",
    "difference_direction": "latents.directions",
    "read_direction": "latents.directions",
    "token_direction": "latents.directions",
    "LatentNotes": "latents.notes",
    "notes": "latents.notes",
    "LatentStore": "latents.store",
    "open_evaluation": "evaluation.kept",
    "open_latents": "latents.store",
    "WrappedSAE": "wrapped",
    "evaluate": "evaluation.evaluate",
    "load": "formats",
    "open_runs": "runs",
    "plan_memory": "training.forecast",
    "pull_from_hub": "hub",
    "push_to_hub": "hub",
    "SAE": "sae",
    "Transcoder": "transcoder",
    "Crosscoder": "crosscoder",
    "SharedLatents": "sharing",
    "compare_sites": "sharing",
    "SAERun": "runs",
    "save": "formats",
    "train": "training.trainer",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME)
