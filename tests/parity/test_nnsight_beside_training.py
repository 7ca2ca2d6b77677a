"""With nnsight imported, dictionaries train to the same bits as without."""

import subprocess
import sys

TRAIN = """
import hashlib, sys
{imports}
import torch
from tests.unit.test_saes_training import Source, _sweep, _train

torch.set_num_threads(1)
digest = hashlib.sha256()
for run in _train(Source(), _sweep(steps={steps})):
    for name in sorted(run.weights):
        digest.update(name.encode() + run.weights[name].tobytes())
    for name in sorted(set(run.history) - {{"seconds"}}):
        digest.update(name.encode() + run.history[name].tobytes())
print(digest.hexdigest(), "nnsight" in sys.modules, hasattr(5, "save"))
"""
OURS = """
import lensbench
m = lensbench.load_model("atlas-dense", backend="nnsight", certify=False)
m.run([1, 2, 3])
"""


def trained(imports: str, *, steps: int = 30) -> list[str]:
    """Digest of weights and history; was nnsight imported; is ``.save`` on every object."""
    code = TRAIN.format(imports=imports, steps=steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_training_is_bit_equal_with_nnsight_imported_by_us_or_by_the_user() -> None:
    plain = trained("")
    assert plain[1:] == ["False", "False"]
    for imports in (OURS, "import nnsight"):
        beside = trained(imports)
        assert beside == [plain[0], "True", "True"]
    assert trained("", steps=31)[0] != plain[0]  # control: one step more is not the same
