"""Every public function of a method package has a command, or a reason why it has none."""

from importlib import import_module

import pytest

from tests.app.test_cli_help import leaves

COMMANDS = {
    "eval sae": "absorption against_sae_lens coverage evaluate feature_splitting implant_recovery "
    "meta_sae scr sparse_probing tpp",
    "eval isolation": "atlas_attributes attribute_isolation",
    "encode": "encode_store open_latents",
    "explain": "explain",
    "train sae": "train dry_run plan_memory",
    "runs ls": "open_runs",
    "runs export": "save load",
    "runs pull": "pull_from_hub",
    "runs push": "push_to_hub",
    "runs notes ls": "notes",
    "latents show": "dashboards logit_effects",
    "latents text": "active_latents",
    "latents match": "match_dictionaries",
    "latents nearest": "nearest_latents difference_direction read_direction token_direction",
    "latents geometry": "decoder_geometry",
    "latents map": "decoder_map",
    "latents sites": "compare_sites",
    "show": "open_evaluation",
    "heads scores": "head_scores",
    "heads composition": "composition_scores",
    "heads circuit": "full_ov_circuit full_qk_circuit",
    "heads logits": "direct_logit_attribution",
    "lens layers": "logit_lens",
    "lens text": "states_of_text",
    "lens document": "lens_grid states_of_store",
    "lens sites": "site_lens",
    "lens parts": "component_lens",
    "lens tune": "train_tuned_lens save_tuned_lens load_tuned_lens",
    "lens compare": "compare_lenses",
    "lens basis": "causal_basis check_basis",
    "lens decoder": "decoder_lens",
    "lens language": "latent_language translation_prompts word_tokens",
    "lens patchscope": "transplant identity_prompt placeholder_prompt",
    "lens ask": "transplant_layers",
    "lens decode": "contrastive_decode hesitation_prompt",
    "lens answers": "score_answers",
    "lens neurons": "decode_neurons neuron_agreement",
    "lens future": "fit_future_lens future_scores",
    "lens ahead": "future_grid",
    "lens soft": "train_soft_prompts",
    "lens context": "prior_context",
    "probe linear": "probe_sweep probe_data fit_probe",
    "probe tokens": "attribute_tokens faithfulness",
    "probe hd": "hd_study atlas_prompts fit_encoder flag_failures explain_bundle",
    "probe concepts": "from_analogies read_concepts",
    "probe decode": "prompt_states ingest_layers",
    "probe capacity": "capacity_curve space_named",
    "probe geometry": "anisotropy intrinsic_dimension neighbourhoods control_stores",
    "probe checkpoints": "checkpoint_stores",
    "probe codes": "store_codes",
    "probe angles": "subspace_angles",
    "probe lengths": "length_profile",
    "probe aligned": "aligned_distances align",
    "probe erase": "erasure_check fit_eraser",
    "probe codelength": "codelength",
    "probe boards": "board_probes board_data",
    "probe flips": "flip_study",
    "probe numbers": "attribute_subspaces atlas_numbers atlas_comparisons comparison_flips",
    "probe trees": "structural_probe word_states",
    "probe spans": "edge_probe edge_data",
    "patch": "patch_sweep ablation_sweep preserve_patterns places",
    "attribute": "attribute",
    "circuit task": "attribute_edges",
    "circuit paths": "path_patch",
    "circuit prune": "acdc",
    "circuit faithful": "faithfulness",
    "circuit scrub": "causal_scrub",
    "circuit align": "align_subspace",
    "circuit subspace": "subspace_patch",
    "circuit latents": "latent_effects",
    "circuit components": "circuit_curve",
    "circuit graph": "attribution_graph",
    "circuit latent": "direct_feature_attribution feature_patching",
    "circuit readings": "garden_path_circuits reading_items",
    "edit fact": "edit_study fact_edit rank_one_edit second_moment",
    "edit directions": "orthogonalised every_write",
    "edit patch": "edit_of_patch patch_of_edit next_map",
    "clamp neuron": "neuron_clamps clamp_neuron",
    "clamp training": "train_clamped attention_only",
    "clamp toy": "rank_one_training",
    "select latents": "entity_separation separation entity_prompts entities_of_pairs",
    "select confounds": "confounds",
    "select heads": "attribute_effects",
    "select study": "selection_study answer_entropy token_probability",
    "select sibling": "sibling_study",
    "steer": "dose_curve steer activation_addition contrast_states towards in_context_vector "
    "random_directions generate_beside",
    "latents steer": "latent_direction",
    "experts map": "routing stored_routing",
    "experts rank": "ftri",
    "experts suppress": "expert_study suppress force matched_random",
    "experts scan": "expert_scan reroute",
    "accelerate": "acceleration_study default_methods method capture_own greedy time_layers rates "
    "fixed_exit dynamic_exit scheduled_exit early_exit free_exit skip_decode adaskip swift "
    "draft_and_verify kangaroo adaskip_route half_similarity angular_route shortgpt_route "
    "evenly_off last_layers_off decode_route linear_budgets step_skips matchness sim_fixed "
    "sim_confidence sim_fsm sim_dv_threshold sim_del sim_calm sim_kangaroo learn_then_test",
    "readability": "readability",
    "savings stages": "inference_stages",
    "savings robustness": "robustness",
    "savings routes": "route_damage swapped without",
    "savings similarity": "similarity_table",
    "savings exits": "lens_table threshold_sweep exit_calibration",
    "savings depth": "depth_router",
    "savings sparsity": "activation_sparsity",
    "savings keys": "heavy_hitters",
    "savings lengths": "draft_length judge_lengths",
    "savings acceptance": "acceptance_head fit_acceptance_head",
    "savings transfer": "hidden_transfer fit_transfer",
    "savings skips": "search_skips",
    "savings kangaroo": "train_kangaroo kangaroo_report adapter_drafts",
    "savings samples": "adaptive_compute last_prompt_states allocate",
    "savings drafts": "speculative_baseline",
    "savings judge": "judge_decoding",
    "savings commit": "denoise prophet prophet_rule final_filter",
}
OF_ARRAYS = (
    "activation_codes anisotropy_of expected_redundancy gride hash_codes hidden_units "
    "information_imbalance label_rows phase_chart redundancy two_nn"
)
"""They take arrays, of which a shell has none; the commands above do the same with stores."""
PIECES = "factorise ov_circuit qk_circuit stored_states transplant_logits"
"""Steps of others: matrices, tensors and hypervectors that a notebook goes on with."""


OF_NOTEBOOKS = (
    "ablate clamp_latent clamped_latent scale probe_direction sparse_mlp whole_route nested "
    "fit_exit_classifier budget_layers decode_batch"
)
"""Plans, routes and rules for a run of one's own: a shell has no run to give them to."""
REFERENCES = "transformers_assisted transformers_early_exit count_block_forwards"
"""What others do, to be compared with, and what counts their work."""
PACKAGES = ("saes", "probes", "interventions", "interventions.experts",
            "interventions.acceleration")  # fmt: skip
REASONS = (OF_ARRAYS, PIECES, OF_NOTEBOOKS, REFERENCES)


def public(package: str) -> set[str]:
    """Functions that a package gives."""
    return {n for n in import_module(f"lensbench.{package}").__all__ if n[0].islower()}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_function_has_its_command(package: str) -> None:
    known = " ".join([*COMMANDS.values(), *REASONS]).split()
    assert public(package) - {*known} == set(), "give these a command, or say why they have none"


def test_the_list_names_what_there_is() -> None:
    assert set(COMMANDS) <= set(leaves())
    named = " ".join([*COMMANDS.values(), *REASONS]).split()
    assert set(named) <= set().union(*map(public, PACKAGES))
    twice = {name for name in named if named.count(name) > 1}
    assert twice == {"faithfulness"}  # one of tokens, one of circuits


def test_interventions_are_within_reach() -> None:
    """Control: the functions that had no command are commands now, and not excused."""
    late = (
        "judge_decoding judge_lengths prophet final_filter speculative_baseline edit_of_patch "
        "patch_of_edit in_context_vector stored_routing preserve_patterns"
    ).split()
    assert not set(late) & set(" ".join(REASONS).split())
