"""How pages name interventions, sites, metrics and numbers of pairs of patching."""

from lensbench.interventions.metrics import said as said
from lensbench.interventions.patching.beside import counted as counted

HOWS = {
    "denoise": "Denoise: clean states into the corrupted run",
    "noise": "Noise: corrupted states into the clean run",
    "zero": "Ablate: zero",
    "mean": "Ablate: mean over prompts",
    "resample": "Ablate: state of another prompt",
    "solo": "Ablate: token without context",
}
"""Interventions, as a reader is told of them."""
SITES_SHOWN = {
    "resid_pre": "Residual stream, before a block",
    "attn_out": "Output of attention",
    "mlp_out": "Output of the MLP",
    "attn.z": "Heads (all tokens)",
    "attn.pattern": "Attention patterns (all tokens)",
    "attn.v": "Values of heads (all tokens)",
}
METRICS_SHOWN = {
    "logit_diff": "Logit difference",
    "kl": "KL(clean ‖ this run)",
    "probability": "Probability",
    "rank": "Rank",
    "loss": "Loss",
}
