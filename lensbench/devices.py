"""Naming a device: one reader of it, so that a slip of the pen is no traceback."""

import torch

from lensbench.errors import ConfigError, UnknownNameError


def as_device(device: str | torch.device | None) -> torch.device:
    """The torch device of that name, if this machine has it; None: a GPU where there is one.

    Raises:
        UnknownNameError: no name of a device.
        ConfigError: a device that this machine does not have.
    """
    if isinstance(device, torch.device):
        return device
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        known = ["cpu", "cuda", "cuda:0", "mps", "meta"]
        raise UnknownNameError("device", str(device), known=known) from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {str(device)!r} was asked for, but torch sees {torch.cuda.device_count()} "
            'CUDA devices here; use device="cpu", or install a build of torch for your GPU'
        )
    return found
