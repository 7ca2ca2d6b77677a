"""Every public function of dictionaries and probes has a command, or a reason why it has none."""

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
}
OF_ARRAYS = (
    "activation_codes anisotropy_of expected_redundancy gride hash_codes hidden_units "
    "information_imbalance label_rows phase_chart redundancy two_nn"
)
"""They take arrays, of which a shell has none; the commands above do the same with stores."""
PIECES = "factorise ov_circuit qk_circuit stored_states transplant_logits"
"""Steps of others: matrices, tensors and hypervectors that a notebook goes on with."""


@pytest.mark.parametrize("package", ["saes", "probes"])
def test_every_function_has_its_command(package: str) -> None:
    import lensbench

    known = {name for names in COMMANDS.values() for name in names.split()}
    known |= {*OF_ARRAYS.split(), *PIECES.split()}
    public = {name for name in getattr(lensbench, package).__all__ if name[0].islower()}
    assert public - known == set(), "give these a command, or say here why they have none"


def test_the_list_names_what_there_is() -> None:
    from lensbench import probes, saes

    assert set(COMMANDS) <= set(leaves())
    public = {*saes.__all__, *probes.__all__}
    named = " ".join([*COMMANDS.values(), OF_ARRAYS, PIECES]).split()
    assert set(named) <= public
    assert len(named) == len(set(named))
