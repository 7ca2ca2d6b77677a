"""What ``--help`` of every command shows at its end; a test holds each line to the command.

Names are those that ``lensbench demo`` leaves behind, so that most lines can be typed as they are.
"""

_RUN, _STORE = "demo-run/run", "demo-run/acts"
_ONE = f"{_RUN}/topk-512-k16-lr0.0011-s0"

EXAMPLES: dict[str, tuple[str, ...]] = {}
