"""OpenAI's autoencoders: one ``.pt`` file, read as tensors and plain values only.

Its ReLU dictionaries are ours: ``relu((x - pre_bias) @ W.T + latent_bias)``. Its TopK ones divide
every token by its own standard deviation and give it back after decoding; weights cannot hold that,
so they are refused. They are read, not written.

Source: openai/sparse_autoencoder (Gao et al. 2024, arXiv:2406.04093).
"""

from pathlib import Path

from lensbench.errors import MismatchError, UnknownNameError
from lensbench.saes.formats.parts import read_torch, take
from lensbench.saes.sae import SAE

SUFFIX = ".pt"
_LAYOUT = {
    "encoder.weight": ("d_sae", "d_model"),
    "latent_bias": ("d_sae",),
    "decoder.weight": ("d_model", "d_sae"),
    "pre_bias": ("d_model",),
}
_BESIDE = (
    "activation",
    "activation_state_dict",
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
)


def read(path: Path) -> SAE:
    """The dictionary in the file ``path``.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: not readable without running code, or tensors absent, unknown, misshapen.
        UnknownNameError: an activation that cannot be read here.
        MismatchError: TopK, which normalises every token.
    """
    found = read_torch(path)
    activation = found.get("activation", "ReLU")
    if activation == "TopK":
        raise MismatchError(
            f"{path} is a TopK autoencoder of OpenAI: it divides every token by its own standard "
            "deviation and gives it back after decoding, which the weights of a dictionary cannot "
            "express, so it is refused rather than read with other codes"
        )
    if activation != "ReLU":
        raise UnknownNameError("readable activation", str(activation), known=("ReLU",))
    tensors = take(found, _LAYOUT, path, ignored=_BESIDE)
    return SAE(
        W_enc=tensors["encoder.weight"].T.contiguous(),
        b_enc=tensors["latent_bias"],
        W_dec=tensors["decoder.weight"].T.contiguous(),
        b_dec=tensors["pre_bias"],
        activation="relu",
        metadata={"site": None, "source_format": "openai"},
    )
