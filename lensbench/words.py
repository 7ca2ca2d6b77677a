"""Our own names as people write them, for figures and captions; in files and code they stay."""

import re

SPELLED = {
    "logit_diff": "logit difference",
    "log10_rank": "log10 of the rank",
    "log10_target_rank": "log10 of the rank of the next token",
    "softmax_diff": "largest less second probability",
    "softmax_max": "largest probability",
    "random_patch": "random patch",
    "random_patch_farthest": "farthest random patch",
    "random_latents_farthest": "farthest of random latents",
    "random_latents_auroc_farthest": "farthest AUROC of random latents",
    "reinitialised_twin": "re-initialised twin",
    "permuted_labels_max": "largest with permuted labels",
    "permuted_labels_max_95": "its 95th percentile",
    "moved_labels_95": "95th percentile of moved labels",
    "moved_labels_auroc": "AUROC of moved labels",
    "target_prob": "probability of the next token",
    "target_rank": "rank of the next token",
    "top_prob": "probability of the best token",
    "kl_to_final": "KL(final ‖ this layer)",
    "kl": "KL",
    "kl_reconstructed": "KL(clean ‖ reconstructed)",
    "kl_zero_ablated": "KL(clean ‖ zeroed)",
    "pca_diff": "PCA of differences",
    "pca_center": "PCA, centred",
    "pca_uncentred": "PCA, not centred",
    "ig_inputs": "integrated gradients of inputs",
    "eap_ig": "EAP with integrated gradients",
    "attention_rollout": "attention rollout",
    "gradient_x_input": "gradient x input",
    "prediction_neurons": "neurons that push a token up",
    "suppression_neurons": "neurons that push tokens down",
    "local_attention": "attention to the last positions",
    "r2": "R²",
    "auroc": "AUROC",
    "fvu": "FVU",
    "mse": "MSE",
    "l0": "L0",
    "f1": "F1",
    "scr": "SCR",
    "tpp": "TPP",
    "prob": "probability",
    "logp": "log-probability",
    "mlp_norm": "MLP norm",
    "lr": "learning rate",
    "dim": "dimension",
    "pos": "position",
    "lens_kl": "KL(final ‖ lens)",
    "lens_entropy": "entropy of the lens",
    "label_f1": "label F1",
    "early_exit_copy": "early exit, copied states",
}
"""Names that read badly even with spaces for underscores."""

_UPPER = {"kl": "KL", "ce": "CE", "fvu": "FVU", "auroc": "AUROC", "f1": "F1", "l0": "L0",
          "l2": "L2", "mlp": "MLP", "pca": "PCA", "mse": "MSE", "hd": "HD", "flops": "FLOPs",
          "pred": "predicted", "meas": "measured"}  # fmt: skip
"""Words of our names that are written large, or out."""
_SPACED = """
accuracy_heldout accuracy_train accuracy_twin activation_addition adaptive_exit after_known_person
after_unknown_person agreement_middle agreement_middle_shuffled all_latents all_yes always_on
always_sure balanced_accuracy best_latent ce_clean ce_mean_ablated ce_reconstructed
ce_recovered_mean ce_recovered_zero ce_zero_ablated clamped_latent code_reverse confidence_exit
control_slope control_task corrupted_prompts cross_entropy crossing_other_prior current_token
dead_fraction density_over_10_percent density_over_1_percent difference_last_no_context
difference_last_no_copy duplicate_token early_exit effect_cosine effect_full effect_kept evenly_off
exact_match exchanged_trees explained_variance explained_variance_legacy first_token fixed_exit
fsm_exit gold_probing grad_norm gradient_norm hungarian_cosine in_context_vector instruction_end
integrated_gradients kl_recovered_mean kl_recovered_zero
kmeans_greedy kmeans_hungarian kmeans_train l2_ratio largest_random_pair last_layers_off
leave_one_out loss_left main_step matching_pursuit maximum_likelihood mean_activation
mean_difference moved_labels moved_labels_correlation next_token no_transplant null_line null_part
oracle_layers oracle_layers_per_token other_neuron other_parts other_question other_sources
other_texts_exit other_token other_words p_anneal paper_jsd patch_of per_token previous_token
principal_components probe_direction random_agreement random_dictionary random_direction
random_directions random_edges random_farthest random_latents random_load random_map random_pair
random_rotation random_subspace random_subspaces random_tokens rank_one reconstruction_fvu
reconstruction_fvu_full relative_reconstruction_bias same_output selectivity_high selectivity_low
shuffled_answers shuffled_directions shuffled_features shuffled_gain shuffled_labels
shuffled_neurons shuffled_readings shuffled_rows shuffled_rows_imbalance shuffled_rows_overlap
shuffled_states shuffled_text single_concepts skip_alone skip_decode soft_comprehensiveness
soft_sufficiency sparse_probing strange_key surprisal_difference token_accuracy token_direction
token_lookup two_nn_regression validation_loss whole_site without_first without_implant
without_massive zero_frequency zero_frequency_random_pattern
"""


def _spaced(name: str) -> str:
    return " ".join(_UPPER.get(word, word) for word in name.replace("_", " ").split(" "))


_KNOWN = {name: _spaced(name) for name in _SPACED.split()} | {
    name: words for name, words in SPELLED.items() if "_" in name
}
_ONE = re.compile(
    r"(?<![\w.,/-])1 (prompt|pair|text|document|token|row|sequence|state|sentence|latent|label|"
    r"layer|head|game|word|question)s\b"
)
_ENDS = ("softmax_max", "softmax_diff")
_NAME = re.compile(r"(?<![\w.@/-])[a-z0-9]+(?:_[a-z0-9]+)+(?![\w/-]|\.\w)")


def in_words(text: str) -> str:
    """``text`` with our own metrics, controls and methods as people write them.

    Names of sites, labels, runs and whatever else a user gave stay as they are; one of a thing is
    not several.

    Example:
        >>> in_words("logit_diff at resid_pre; control: random_patch 0.034")
        'logit difference at resid_pre; control: random patch 0.034'
    """
    named = _NAME.sub(lambda found: _KNOWN.get(found[0], found[0]), text)
    return _ONE.sub(r"1 \1", named)


def spelled(name: str) -> str:
    """One of our own names, whatever it is: in words, or with spaces.

    Example:
        >>> spelled("mean_exit")
        'mean exit'
    """
    if (known := SPELLED.get(name, _KNOWN.get(name))) is not None:
        return known
    for inner in _ENDS:  # ``layers_at_0.95_softmax_max``
        if name.endswith(f"_{inner}"):
            return f"{_spaced(name.removesuffix(f'_{inner}'))} {SPELLED[inner]}"
    return _spaced(name)
