"""Acceleration: what skipping and exiting cost, predicted from captured activations, then measured.

``decode`` and the drafting engines run a model live; the readers of a store predict the same
numbers without running it. An exit layer E is the number of layers that were executed, 1 to L.
"""

from lensbench.lazy import exports

_NAMES: dict[str, tuple[str, ...]] = {
    "decoding": ("Decoded", "Round", "greedy"),
    "exits.calibrate": ("Calibration", "learn_then_test"),
    "exits.classifier": ("ExitClassifier", "fit_exit_classifier"),
    "exits.free": ("free_exit",),
    "exits.live": ("early_exit",),
    "reading.result": ("Readability",),
    "reading.study": ("readability",),
    "readouts.acceptance_head": ("AcceptanceHead", "acceptance_head", "fit_acceptance_head"),
    "readouts.acceptance_result": ("AcceptanceReport",),
    "readouts.activation_sparsity": ("SparsityReport", "activation_sparsity", "sparse_mlp"),
    "readouts.adaptive_compute": (
        "AllocationReport",
        "adaptive_compute",
        "allocate",
        "last_prompt_states",
    ),
    "readouts.denoising": ("Denoising", "denoise"),
    "readouts.depth_router": ("DepthReport", "depth_router"),
    "readouts.draft_length": ("DraftLengthReport", "DraftText", "draft_length", "judge_lengths"),
    "readouts.heavy_hitters": ("HeavyHitterReport", "heavy_hitters"),
    "readouts.hidden_transfer": (
        "TransferMaps",
        "TransferReport",
        "fit_transfer",
        "hidden_transfer",
    ),
    "readouts.judge": ("JudgeReport", "judge_decoding"),
    "readouts.prophet": ("CommitReport", "FinalFilter", "final_filter", "prophet", "prophet_rule"),
    "sampling": ("Warp",),
    "skipping.adaskip": ("HalfSimilarity", "adaskip_route", "half_similarity"),
    "skipping.batch": ("DecodedBatch", "decode_batch"),
    "skipping.damage": ("robustness", "route_damage"),
    "skipping.live": ("decode_route", "skip_decode"),
    "skipping.online": ("adaskip",),
    "skipping.pruning": ("angular_route", "shortgpt_route"),
    "skipping.report": ("RouteReport",),
    "skipping.route": (
        "Route",
        "evenly_off",
        "last_layers_off",
        "swapped",
        "whole_route",
        "without",
    ),
    "skipping.schedule": ("Budgets", "linear_budgets", "nested", "step_skips"),
    "skipping.stages": ("StageReport", "inference_stages"),
    "speculative.baseline": ("DraftedDecoded", "speculative_baseline"),
    "speculative.del_rule": ("DelRule",),
    "speculative.dynamic": ("dynamic_exit", "scheduled_exit"),
    "speculative.fixed": ("fixed_exit",),
    "speculative.kangaroo": ("kangaroo",),
    "speculative.kangaroo_adapter": ("KangarooAdapter",),
    "speculative.kangaroo_report": ("KangarooReport", "kangaroo_report"),
    "speculative.kangaroo_training": ("KangarooConfig", "train_kangaroo"),
    "speculative.reference": ("transformers_assisted", "transformers_early_exit"),
    "speculative.schedules": ("AdaptiveThreshold", "ConfidenceStop", "DraftLengthFSM"),
    "speculative.skip_search": ("SkipSearch", "search_skips"),
    "speculative.skips": ("draft_and_verify",),
    "speculative.swift": ("SwiftSearch", "matchness", "swift"),
    "study.cost": ("LayerCosts",),
    "study.counter": ("count_block_forwards",),
    "study.curves": (
        "ExitCalibration",
        "ThresholdSweep",
        "exit_calibration",
        "threshold_sweep",
    ),
    "study.layer_times": ("LayerTimes", "time_layers"),
    "study.lens_read": ("lens_table",),
    "study.lens_table": ("LensTable",),
    "study.methods": ("Method",),
    "study.own": ("capture_own",),
    "study.registry": ("METHODS", "default_methods", "method"),
    "study.similarity": ("SimilarityTable", "similarity_table"),
    "study.simulate": ("sim_confidence", "sim_dv_threshold", "sim_fixed", "sim_fsm"),
    "study.simulate_del": ("sim_del",),
    "study.simulate_exits": ("budget_layers", "sim_calm"),
    "study.simulate_kangaroo": ("adapter_drafts", "sim_kangaroo"),
    "study.study": ("AccelerationStudy", "acceleration_study"),
    "study.trace": ("ExitTrace", "Rates", "Trace", "rates"),
}
"""Module -> the public names that live in it."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - resolved by __getattr__
__getattr__, __dir__ = exports(__name__, _HOME)
