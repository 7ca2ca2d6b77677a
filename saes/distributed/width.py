"""Latents divided over ranks, for dictionaries whose training does not fit on one device.

Rank ``r`` holds encoder, decoder, biases and moments of the latents ``F r / R .. F (r + 1) / R``.
"""

from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import io
from lensbench.errors import ConfigError
from lensbench.saes.architectures import DictionaryConfig, FixedK
from lensbench.saes.configs import TrainConfig
from lensbench.saes.distributed import shards
from lensbench.saes.distributed.data import Together
from lensbench.saes.distributed.job import Job
from lensbench.saes.distributed.latents import ShardLooped, SharedLatents, largest_of_rows
from lensbench.saes.distributed.ranks import Batch, prune
from lensbench.saes.distributed.share import share
from lensbench.saes.ends import Ends
from lensbench.saes.runs import SAERun
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.group import Group
from lensbench.saes.step.looped import Looped
from lensbench.saes.step.rules import rule_of
from lensbench.saes.step.start import FACTOR_ROWS, geometric_median
from lensbench.saes.training import checkpoint
from lensbench.saes.training.checkpoint import RunState
from lensbench.saes.training.folder import RunFolder
from lensbench.saes.training.reporting import Reporter

DIVISIBLE = ("topk", "batchtopk", "relu")
"""Architectures of which every part of a step is known to divide by latents."""
ROWS_AT_ONCE = 4096
"""Rows of a decoder drawn at one time; a multiple of 16, as torch draws normal numbers."""
RESULT = "shards"


class Width(Together):
    """Every rank has some of the latents of each dictionary."""

    def __init__(self, job: Job, train: TrainConfig) -> None:
        super().__init__(job, train)
        self.whole = SharedLatents(job)
        self.portion = 1 / job.world

    def own(self, configs: list[DictionaryConfig], source: Any) -> list[DictionaryConfig]:
        """All of them.

        Raises:
            ConfigError: a dictionary that cannot be divided.
        """
        if self._train.engine == "stacked":
            raise ConfigError(
                "train.engine: stacked works on whole dictionaries; with train.parallel: width use "
                "auto, dense or screened"
            )
        for config in configs:
            if config.kind() not in DIVISIBLE:
                raise ConfigError(
                    f"{config.name} is {config.kind()}; train.parallel: width divides "
                    f"{', '.join(DIVISIBLE)}. Train it with members or data"
                )
            if getattr(config, "multi_topk", 0):
                raise ConfigError(
                    f"{config.name} has multi_topk, which train.parallel: width cannot divide; "
                    "train it with members or data"
                )
            if config.role != "sae":
                raise ConfigError(
                    f"{config.name} is a {config.role}; train.parallel: width divides SAEs. Train "
                    "it with members or data"
                )
            if config.d_sae < self._job.world:
                raise ConfigError(
                    f"{config.name} has {config.d_sae} latents for {self._job.world} ranks; use "
                    "fewer ranks, or train.parallel: members"
                )
        return super().own(configs, source)

    def total(self, own: Tensor) -> Tensor:
        """Added up."""
        return self._job.sum_(own)

    def group(
        self, configs: list[DictionaryConfig], ends: Ends, first: Batch, scales: dict[str, float]
    ) -> Group:
        """This rank's part of what ``new_group`` makes: no rank ever holds all of it."""
        (site,) = ends.reads
        scale = scales[site]
        x = first[site] * scale
        centre = geometric_median(x)
        few, span = x[:FACTOR_ROWS] - centre, self._span(configs[0].d_sae)
        decoders = [
            decoder_rows(c.seed, c.d_sae, x.shape[1], span).to(x.device) for c in configs
        ]  # fmt: skip
        pairs = list(zip(configs, decoders, strict=True))
        rule = rule_of(configs[0])
        own = [rule.start(config, x.shape[1]) for config in configs]
        params = {
            "W_enc": torch.stack([d * self._factor(c, few, d) for c, d in pairs]),
            "b_enc": x.new_zeros(len(configs), span.stop - span.start),
            "W_dec": torch.stack(decoders),
            "b_dec": centre.repeat(len(configs), 1),
        }
        state = {name: torch.stack([o[name] for o in own]).to(x.device) for name in own[0]}
        return Group(configs, ends, scale, scale, (), params, state)

    def restore(self, folder: RunFolder, step: int, group: Group, i: int, name: str) -> None:
        """This rank's latents, however many ranks wrote them."""
        span = self._span(group.configs[i].d_sae)
        checkpoint.read(folder.of(name), step, group, i, span)

    def save(
        self, folder: RunFolder, groups: list[Group], state: RunState, keep: int, *, stopped: bool
    ) -> None:
        """Each rank its latents; rank 0 finishes the checkpoint when all are there."""
        del stopped
        for group in groups:
            for i, name in group.names():
                self._write(checkpoint.place(folder.of(name), state.step), group, i)
        self._job.meet(f"shards {state.step}")
        if self._job.rank == 0:
            for group in groups:
                for i, name in group.names():
                    where = checkpoint.place(folder.of(name), state.step)
                    listed = shards.listed(where, self._job.world)
                    checkpoint.finish(folder.of(name), group, i, state, {"shards": listed})
            prune(folder, groups, keep)
        self._job.meet(f"checkpoint {state.step}")

    def results(
        self,
        report: Reporter,
        folder: RunFolder,
        groups: list[Group],
        facts: tuple[dict[str, Any], int, float],
        states: dict[str, str],
    ) -> list[SAERun]:
        """Put together by rank 0 in its main memory, one dictionary after another."""
        for group in groups:
            for i, name in group.names():
                self._write(folder.of(name) / RESULT, group, i)
        self._job.meet("results")
        if self._job.rank == 0:
            for group in groups:
                for i, name in group.names():
                    whole = self._assembled(folder.of(name) / RESULT, group, i)
                    report.result(whole, 0, *facts)
                    rmtree(folder.of(name) / RESULT)
            report.done(facts[1], states)
        return self._all(folder)

    def _looped(self, space: Workspace, screened: bool) -> Looped:
        return ShardLooped(screened=screened, space=space, job=self._job)

    def _write(self, into: Path, group: Group, i: int) -> None:
        span = self._span(group.configs[i].d_sae)
        shards.write(into, group, i, span, self._job.rank, self._job.world)

    def _assembled(self, where: Path, group: Group, i: int) -> Group:
        io.write_json(where / "state.json", {"shards": shards.listed(where, self._job.world)})
        found = {n: torch.from_numpy(a) for n, a in shards.read(where, moments=False).items()}
        params = {name: found[name][None] for name in group.params}
        # A number of its own per dictionary was kept as an array of one.
        state = {
            name: found[f"state.{name}"].reshape(1, -1)
            if value.ndim > 1
            else found[f"state.{name}"]
            for name, value in group.state.items()
        }
        scales = group.scale, group.out_scale
        config, alive = [group.configs[i]], [group.alive[i]]
        return Group(config, group.ends, *scales, (), params, state, alive=alive)

    def _factor(self, config: DictionaryConfig, x: Tensor, decoder: Tensor) -> float:
        """``encoder_factor`` of the whole dictionary."""
        acts = (x @ decoder.t()).relu()
        if isinstance(config, FixedK):
            values, indices = torch.topk(acts, min(config.k, acts.shape[1]), dim=1)
            values = torch.where(largest_of_rows(self._job, values, config.k), values, 0.0)
            acts = torch.zeros_like(acts).scatter_(1, indices, values)
        y = self._job.sum_(acts @ decoder)
        length = float((y * y).sum())
        return float((x * y).sum()) / length if length > 0 else 1.0

    def _span(self, d_sae: int) -> slice:
        return share(d_sae, self._job.rank, self._job.world)


def decoder_rows(seed: int, d_sae: int, d_model: int, span: slice) -> Float[Tensor, "span d_model"]:
    """Rows ``span`` of the decoder that ``new_group`` draws for this seed.

    The rows before them are drawn too, a few at a time, and dropped.
    """
    rng = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []
    edges = [*range(0, d_sae, ROWS_AT_ONCE), d_sae]
    if len(edges) > 2 and (d_sae - edges[-2]) * d_model < 16:
        del edges[-2]  # torch draws fewer than 16 numbers in another way
    for a, b in pairwise(edges):
        rows = torch.randn(b - a, d_model, generator=rng)
        kept.append(rows[max(0, span.start - a) : max(0, span.stop - a)])
        if b >= span.stop:
            break
    rows = torch.cat(kept)
    return rows / rows.norm(dim=1, keepdim=True)
