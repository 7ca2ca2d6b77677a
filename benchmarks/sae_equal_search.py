"""L0 matched by turning one dial, and what a dictionary scores at the L0 that was asked for.

L0 answers a penalty smoothly in logarithms, so the search is a secant in (log dial, log L0) that
becomes a false position once both sides of the target are known. It ends within ``TOLERANCE`` or
after ``CAP`` trainings; then the two nearest runs on both sides are interpolated in log L0.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.sae_equal_trainers import SET, Dial, Make, Task, recut
from lensbench.saes.sae import SAE
from lensbench.worlds.matching import cosines

TOLERANCE, CAP, FIRST_LOOK = 0.02, 6, 2
LARGEST_STEP = math.log(6.0)
CUT_ROWS = 16_384
Run = dict[str, float]
MEASURES = ("fvu", "l0", "saved_l0", "dead", "mmcs", "recovered")


@dataclass
class World:
    """What all trainers are given, and where they are measured."""

    name: str
    order: Callable[[int], Tensor]
    """Training rows of a seed, in order."""
    held: Tensor
    d_sae: int
    l0: float
    batch: int
    rates: Callable[[str, str], tuple[float, ...]]
    """Learning rates to try for an architecture of a library."""
    atoms: Tensor | None = None
    """The truth, where there is one."""
    keep: Path = Path("sae-equal-l0")
    runs: dict[str, Run] = field(default_factory=dict[str, Run])

    def __post_init__(self) -> None:
        """Take up what an earlier call has trained."""
        self.keep.mkdir(parents=True, exist_ok=True)
        self.file = self.keep / f"{self.name}.json"
        self.runs = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def run(self, kind: str, library: str, make: Make, lr: float, seed: int, dial: float) -> Run:
        """Train and measure once, or look it up."""
        key = f"{kind}|{library}|{lr:g}|{seed}|{dial:.6g}"
        if key not in self.runs:
            x = self.order(seed)
            sae, scale = make(Task(x, self.d_sae, self.l0, self.batch, lr, seed, dial))
            saved = l0_of(sae, self.held * scale)
            if kind in SET and sae.threshold is not None:
                sae = recut(sae, x[:: max(1, len(x) // CUT_ROWS)] * scale, self.l0)
            found = measure(sae, self.held * scale, self.atoms)
            self.runs[key] = {"dial": dial, "saved_l0": saved, **found}
            if self.atoms is None:
                self.decoders(key).parent.mkdir(exist_ok=True)
                save_file({"W_dec": sae.W_dec.contiguous()}, self.decoders(key))
            self.file.write_text(json.dumps(self.runs, indent=0))
            print(key, {k: round(v, 4) for k, v in self.runs[key].items()}, flush=True)
        return self.run_of(key)

    def known(self, kind: str, library: str, lr: float, seed: int) -> list[Run]:
        """What an earlier call has trained of this, so that a search goes on where it was."""
        start = f"{kind}|{library}|{lr:g}|{seed}|"
        return [self.run_of(key) for key in self.runs if key.startswith(start)]

    def run_of(self, key: str) -> Run:
        """A run with its key."""
        return {**self.runs[key], "key": key}  # pyright: ignore[reportReturnType]

    def decoders(self, key: str) -> Path:
        """Where the decoder of a run lies."""
        return self.keep / self.name / f"{key.replace('|', '_').replace(' ', '')}.safetensors"


def l0_of(sae: Any, x: Tensor) -> float:
    """Latents per row."""
    return sum(float((sae.encode(rows) > 0).sum()) for rows in x.split(4096)) / len(x)


def measure(sae: Any, x: Tensor, atoms: Tensor | None) -> Run:
    """FVU, L0, share of latents that never fire on ``x``; MMCS and recovered share of atoms."""
    error, fired, active = 0.0, torch.zeros(len(sae.W_dec)), 0.0
    for rows in x.split(4096):
        acts = sae.encode(rows)
        error += float((sae.decode(acts) - rows).double().square().sum())
        fired += (acts > 0).sum(0)
        active += float((acts > 0).sum())
    total = float((x - x.double().mean(0)).square().sum())
    found = {
        "fvu": error / total,
        "l0": active / len(x),
        "dead": float((fired == 0).float().mean()),
    }
    if atoms is not None:
        nearest = cosines(atoms, sae.W_dec).amax(1)
        found |= {
            "mmcs": float(nearest.mean()),
            "recovered": float((nearest >= 0.9).double().mean()),
        }
    return found


def is_close(run: Run, l0: float) -> bool:
    """Whether L0 is matched."""
    return abs(run["l0"] / l0 - 1) <= TOLERANCE


def off(run: Run, l0: float) -> float:
    """Log of L0 over the target."""
    return math.log(max(run["l0"], 1e-3) / l0)


def next_dial(runs: list[Run], dial: Dial, l0: float) -> float:
    """Where to train next."""
    if not runs:
        return dial.start
    below = max((r for r in runs if off(r, l0) < 0), key=lambda r: off(r, l0), default=None)
    above = min((r for r in runs if off(r, l0) >= 0), key=lambda r: off(r, l0), default=None)
    if below is not None and above is not None:
        part = -off(below, l0) / (off(above, l0) - off(below, l0))
        a, b = math.log(below["dial"]), math.log(above["dial"])
        return math.exp(a + min(0.9, max(0.1, part)) * (b - a))
    slope = 1.0 if dial.rising else -1.0
    near = sorted(runs, key=lambda r: abs(off(r, l0)))
    if len(near) > 1 and near[0]["dial"] != near[1]["dial"]:
        run = math.log(near[0]["dial"] / near[1]["dial"])
        seen = (off(near[0], l0) - off(near[1], l0)) / run
        slope = seen if seen * slope > 0.2 else slope
    step = -off(near[0], l0) / slope
    return near[0]["dial"] * math.exp(min(LARGEST_STEP, max(-LARGEST_STEP, step)))


def search(
    train: Callable[[float], Run], runs: list[Run], dial: Dial, l0: float, cap: int
) -> list[Run]:
    """Train until L0 is matched or ``cap`` runs are made; adds to ``runs``."""
    while len(runs) < cap and not any(is_close(r, l0) for r in runs):
        new = train(next_dial(runs, dial, l0))
        if any(new["key"] == r["key"] for r in runs):
            break  # L0 is not monotone here: the two sides would be asked for the same run again
        runs.append(new)
    return runs


@dataclass(frozen=True)
class Matched:
    """What a search found at the target."""

    run: Run
    how: str
    """``run`` (within the tolerance), ``interpolated`` or ``not matched``."""
    trainings: int


def matched(runs: list[Run], l0: float) -> Matched:
    """The closest run if it is within the tolerance, else both sides interpolated in log L0."""
    nearest = min(runs, key=lambda r: abs(off(r, l0)))
    below = max((r for r in runs if off(r, l0) < 0), key=lambda r: off(r, l0), default=None)
    above = min((r for r in runs if off(r, l0) >= 0), key=lambda r: off(r, l0), default=None)
    if is_close(nearest, l0):
        return Matched(nearest, "run", len(runs))
    if below is None or above is None:
        return Matched(nearest, "not matched", len(runs))
    part = -off(below, l0) / (off(above, l0) - off(below, l0))
    mixed = {
        name: below[name] + part * (above[name] - below[name])
        for name in MEASURES
        if name in nearest
    }
    mixed["fvu"] = math.exp((1 - part) * math.log(below["fvu"]) + part * math.log(above["fvu"]))
    key: Any = nearest["key"]
    return Matched({**mixed, "dial": nearest["dial"], "key": key}, "interpolated", len(runs))


@dataclass(frozen=True)
class Trained:
    """One library's dictionaries of one architecture: its best learning rate, every seed."""

    lr: float
    by_rate: dict[float, float]
    """FVU of the first seed at the target L0, as far as the first look goes."""
    seeds: list[Matched]

    def values(self, name: str) -> list[float]:
        """A measure of every seed."""
        return [m.run[name] for m in self.seeds]


def train_all(
    world: World, kind: str, library: str, dial: Dial, make: Make, seeds: tuple[int, ...]
) -> Trained:
    """The learning rate is chosen on the first seed after at most ``FIRST_LOOK`` trainings each."""
    looks: dict[float, list[Run]] = {}
    begin, still = dial, kind in SET
    cap = 1 if still else FIRST_LOOK
    for lr in world.rates(kind, library):
        found = search(
            _trainer(world, kind, library, make, lr, seeds[0]),
            world.known(kind, library, lr, seeds[0]),
            begin,
            world.l0,
            cap,
        )
        looks[lr] = found
        best = min(found, key=lambda r: abs(off(r, world.l0)))
        begin = Dial(dial.name, best["dial"], dial.rising)
    scores = {lr: at_target(runs, world.l0) for lr, runs in looks.items()}
    lr = min(scores, key=lambda rate: scores[rate])
    runs = looks[lr]
    cap = 1 if still else CAP
    done = [search(_trainer(world, kind, library, make, lr, seeds[0]), runs, dial, world.l0, cap)]
    for seed in seeds[1:]:
        best = min(done[0], key=lambda r: abs(off(r, world.l0)))
        begin = Dial(dial.name, best["dial"], dial.rising)
        done.append(
            search(
                _trainer(world, kind, library, make, lr, seed),
                world.known(kind, library, lr, seed),
                begin,
                world.l0,
                cap,
            )
        )
    return Trained(lr, scores, [matched(r, world.l0) for r in done])


def _trainer(
    world: World, kind: str, library: str, make: Make, lr: float, seed: int
) -> Callable[[float], Run]:
    return lambda value: world.run(kind, library, make, lr, seed, value)


def at_target(runs: list[Run], l0: float) -> float:
    """FVU at the target L0: of a match, else the line through the two nearest runs in logs."""
    near = sorted(runs, key=lambda r: abs(off(r, l0)))
    if is_close(near[0], l0) or len(near) == 1 or off(near[0], l0) == off(near[1], l0):
        return near[0]["fvu"]
    a, b = near[:2]
    slope = math.log(a["fvu"] / b["fvu"]) / (off(a, l0) - off(b, l0))
    return math.exp(math.log(a["fvu"]) - slope * off(a, l0))


def control(d_sae: int, l0: float, held: Tensor, atoms: Tensor | None) -> Run:
    """Random unit directions, the ``l0`` largest positive products of each centred row, best scale.

    The scale is the one of least squared error on these very rows, which favours the control.
    """
    rows = torch.randn(d_sae, held.shape[1], generator=torch.Generator().manual_seed(0))
    rows /= rows.norm(dim=1, keepdim=True)
    centre = held.mean(0)
    size: dict[str, Any] = {
        "W_enc": rows.t().contiguous(),
        "b_enc": torch.zeros(d_sae),
        "b_dec": centre,
    }
    plain = SAE(**size, W_dec=rows, activation="topk", k=round(l0))
    y = plain.decode(plain.encode(held)) - centre
    factor = float((y * (held - centre)).sum() / (y * y).sum())
    return measure(SAE(**size, W_dec=rows * factor, activation="topk", k=round(l0)), held, atoms)
