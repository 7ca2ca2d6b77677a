"""A rank's rows of every batch, and what the step must then ask the others."""

from dataclasses import replace

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.saes.architectures import DictionaryConfig, FromBatch
from lensbench.saes.distributed.job import Job
from lensbench.saes.step.rules.base import Gradients
from lensbench.saes.step.whole import Whole

SUMMED, SMALLEST = ("lp",), ("smallest",)
"""What rules keep of a batch beside gradients: sums over tokens, and smallest values."""


class ManyRanks(Whole):
    """Answers of one of several processes."""

    shared = True

    def __init__(self, job: Job) -> None:
        self.job = job

    def engines(self, config: DictionaryConfig) -> tuple[str, ...]:
        """Engines that ask here where they must."""
        del config
        return ("dense", "screened", "stacked")

    def reduced(self, config: DictionaryConfig, gradients: Gradients) -> Gradients:
        """Gradients over all tokens, from those over the tokens that are here."""
        del config
        return gradients

    def guess(self, value: float) -> float:
        """The lowest: no rank may miss an entry."""
        return float(self.job.min_(torch.tensor(value, dtype=torch.float64)))

    def count(self, own: int) -> int:
        """Over all ranks."""
        return int(self.job.sum_(torch.tensor(own)))

    def cut(self, values: Tensor, wanted: int) -> Tensor:
        """All candidates go to all ranks; they are little more than ``wanted`` together."""
        if self.count(len(values)) <= wanted:
            return values.new_tensor(0.0)
        return super().cut(torch.cat(self.job.ragged(values, -torch.inf)), wanted)


class SharedBatch(ManyRanks):
    """Every rank has some tokens of the batch and all latents."""

    def __init__(self, job: Job, batch_size: int) -> None:
        super().__init__(job)
        self._size = batch_size
        self.part = share(batch_size, job.rank, job.world)

    def engines(self, config: DictionaryConfig) -> tuple[str, ...]:
        """Where entries are selected from the whole batch, those that look at other ranks."""
        one_by_one = ("dense", "screened")
        return one_by_one if isinstance(config, FromBatch) else super().engines(config)

    def tokens(self, own: int) -> int:
        """The global batch; a probe may bring fewer tokens than a share."""
        mine = self.part.stop - self.part.start
        return self._size if own == mine else self.count(own)

    def reduced(self, config: DictionaryConfig, gradients: Gradients) -> Gradients:
        """Means over tokens are weighted by shares of the batch, sums are added up.

        With ``B_r`` of the ``B`` tokens on rank ``r``, every gradient is ``sum_r (B_r / B) g_r``.

        Raises:
            ConfigError: an architecture that keeps something of a batch that this does not know.
        """
        unknown = set(gradients.state) - {*SUMMED, *SMALLEST}
        if unknown:
            raise ConfigError(
                f"{config.kind()} keeps {', '.join(sorted(unknown))} of a batch, which train."
                "parallel: data cannot add up over ranks; use members"
            )
        job, weight = self.job, (self.part.stop - self.part.start) / self._size
        of = {name: gradients.of[name] for name in sorted(gradients.of)}
        for value in of.values():
            if value.ndim > 1:
                job.sum_(value.mul_(weight))
        means = [v for v in of.values() if v.ndim == 1] + [gradients.along, gradients.loss.view(1)]
        sums = [gradients.fired, gradients.sse.view(1)]
        sums += [gradients.state[n].reshape(-1) for n in SUMMED if n in gradients.state]
        flat = job.sum_(torch.cat([*(m * weight for m in means), *sums]))
        parts = iter(flat.split([len(p) for p in (*means, *sums)]))
        found = {n: next(parts) if v.ndim == 1 else v for n, v in of.items()}
        along, loss, fired, sse = (next(parts) for _ in range(4))
        state = {n: next(parts) for n in SUMMED if n in gradients.state}
        for name in SMALLEST:
            if name in gradients.state:
                state[name] = job.min_(gradients.state[name].clone())
        return replace(
            gradients, of=found, along=along, fired=fired, loss=loss[0], sse=sse[0], state=state
        )


def share(batch_size: int, rank: int, world: int) -> slice:
    """Rows of a batch that a rank takes; shares differ by one row at most."""
    return slice(batch_size * rank // world, batch_size * (rank + 1) // world)
