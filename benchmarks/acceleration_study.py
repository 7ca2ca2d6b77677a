"""How well the acceleration study predicts time, and what predicting costs.

``python -m benchmarks.acceleration_study [rounds]``: on atlas-early and a model of the words
language, one thread. Every fixed exit (exit layer, draft length) is predicted from one store and
run live, interleaved; the calibrated speed-up is compared with the measured one, beside the two
trivial predictors (share of layers; the i.i.d. formula). Then 50 settings are predicted offline,
generation and capture of the text included, against live runs of the same prompts.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Page, threads
from benchmarks.self_speculation import atlas_prompts, words_model, words_prompts
from lensbench.stats import spearman

WITHIN, HALF, RANK, RUNS = 0.20, 0.5, 0.8, 5.0
"""Stated limits: error, error over the best trivial one, rank correlation, live runs."""
GRID = {
    "words": [(e, g) for e in (1, 2, 3, 4, 6) for g in (1, 2, 4, 6)],
    "atlas-early": [(e, g) for e in (1, 2, 3, 4, 5) for g in (1, 2, 4, 6)],
}
Study = Any


def predicted_and_measured(
    model: Any, prompts: Sequence[torch.Tensor], n: int, name: str, rounds: int, folder: Path
) -> Study:
    """The study of every fixed exit, verified live."""
    from lensbench.interventions.acceleration import capture_own, method, time_layers
    from lensbench.interventions.acceleration.study.study import acceleration_study

    store = capture_own(model, [p[0].tolist() for p in prompts], folder / name, n)
    room = max(p.shape[1] for p in prompts) + n
    longest = max(p.shape[1] for p in prompts)
    times = time_layers(model, room, most_tokens=7, prompt_tokens=longest, repeats=3 * rounds)
    chosen = [method("fixed_exit", exit_layer=e, draft=g) for e, g in GRID[name]]
    return acceleration_study(model, store, chosen, times=times).verify(model, repeats=rounds)


def held_up(page: Page, name: str, study: Study, n_layers: int) -> None:
    """The table of one model and its claims."""
    frame = study.to_frame()
    measured = frame["meas_speedup"].to_numpy(float)
    calibrated = frame["pred_speedup_calibrated"].to_numpy(float)
    iid = frame["pred_speedup_iid"].to_numpy(float)
    share = np.array([n_layers / e for e, _ in GRID[name]])
    errors = {
        "calibrated": np.abs(calibrated / measured - 1),
        "i.i.d. formula": np.abs(iid / measured - 1),
        "share of layers": np.abs(share / measured - 1),
    }
    page.heading(f"{name}: {len(frame)} settings")
    rows: list[list[Any]] = [["exit, draft", "measured", "calibrated", "i.i.d.", "L / E", "held"]]
    for i, (e, g) in enumerate(GRID[name]):
        cells = (measured[i], calibrated[i], iid[i], share[i])
        rows.append([f"{e}, {g}", *(f"{c:.2f}" for c in cells), bool(frame["held"].iloc[i])])
    page.table(rows)
    trivial = min(float(np.median(errors[k])) for k in ("i.i.d. formula", "share of layers"))
    median = float(np.median(errors["calibrated"]))
    page.claim(f"{name}: median error of the calibrated speed-up", median, WITHIN)
    page.claim(f"{name}: largest error", float(errors["calibrated"].max()), WITHIN)
    page.claim(
        f"{name}: its median over that of the best trivial predictor", median / trivial, HALF
    )
    for e in sorted({e for e, _ in GRID[name]}):
        at = np.array([e == exit_layer for exit_layer, _ in GRID[name]])
        page.claim(
            f"{name}: rank correlation over draft lengths at exit {e} (a fixed share of layers)",
            round(spearman(calibrated[at], measured[at]), 9), RANK, at_most=False,
        )  # fmt: skip
    page.claim(f"{name}: rank correlation over all settings", spearman(calibrated, measured), RANK,
               at_most=False)  # fmt: skip
    page.lines.append("")


def offline(page: Page, name: str, model: Any, prompts: Sequence[torch.Tensor], n: int) -> None:
    """CPU time of predicting 50 settings over that of one live run of the prompts."""
    from lensbench.interventions.acceleration import capture_own, fixed_exit, lens_table, sim_fixed

    settings = [(1 + i % (model.n_layers - 1), 1 + i // (model.n_layers - 1)) for i in range(50)]
    ratios: list[float] = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            store = capture_own(model, [p[0].tolist() for p in prompts], folder, n)
            table = lens_table(store, model)
            for e, g in settings:
                sim_fixed(table, e, g)
            spent = time.process_time() - start
        start = time.process_time()
        for p in prompts:
            fixed_exit(model, p, 2, 4, n)
        ratios.append(spent / (time.process_time() - start))
    text = f"{name}: 50 settings offline, generation and capture included, in live runs (median)"
    page.claim(text, float(np.median(ratios)), RUNS)
    page.lines.append("")


def main() -> None:
    """Measure and write the page."""
    import lensbench

    threads()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    page = Page("acceleration-study", "Speed-ups predicted from a store, then measured")
    page.text(
        "Speed-up: CPU time of plain decoding over that of the method, same prompts and text, "
        "medians over rounds. Held: rounds, drafted and accepted tokens equal those predicted."
    )
    models = {
        "words": (str(words_model()), words_prompts(3), 160),
        "atlas-early": ("atlas-early", atlas_prompts(6), 48),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, prompts, n) in models.items():
            model = lensbench.load_model(path, certify=False)
            study = predicted_and_measured(model, prompts, n, name, rounds, Path(folder))
            held_up(page, name, study, model.n_layers)
            offline(page, name, model, prompts, n)
    page.write()


if __name__ == "__main__":
    main()
