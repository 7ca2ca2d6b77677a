"""Sites of a sweep as its source spells them: patterns spread out, unknown ones refused."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from lensbench.app.workflows.sweeps import with_entries, with_sites
from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.saes.configs import SweepConfig
from lensbench.sites import canonical_name


def with_known_sites(sweep: SweepConfig, offered: tuple[str, ...]) -> SweepConfig:
    """Sites as the source spells them: ``*`` expanded, an only one filled in, others refused."""
    if any(not (c.site or c.sites) for c in sweep.expand()):
        sweep = with_sites(sweep, [_only(offered)])
    return with_entries(sweep, [_spelled(entry, sweep, offered) for entry in sweep.sweep])


def _spelled(
    entry: Mapping[str, Any], sweep: SweepConfig, offered: tuple[str, ...]
) -> dict[str, Any]:
    """An entry with its sites as the source spells them."""
    found = dict(entry)
    named = [] if entry.get("sites") else _as_list(entry.get("site") or sweep.source.site)
    if named and entry.get("target"):
        pairs = _pairs(named, _as_list(entry["target"]), offered)
        found |= {"site": [site for site, _ in pairs], "target": [to for _, to in pairs]}
    elif named:
        found["site"] = [s for name in named for s in _matching(name, offered)]
    if entry.get("sites"):
        nested = isinstance(entry["sites"][0], list | tuple)
        several = entry["sites"] if nested else [entry["sites"]]
        found["sites"] = [[s for n in one for s in _matching(n, offered)] for one in several]
    return found


def _pairs(sites: list[str], targets: list[str], offered: tuple[str, ...]) -> list[tuple[str, str]]:
    """Site and target of every transcoder; where both have a ``*``, it is the same in both."""
    if len(sites) == len(targets):
        given = list(zip(sites, targets, strict=True))
    else:
        given = [(site, target) for site in sites for target in targets]
    pairs: list[tuple[str, str]] = []
    for site, target in given:
        if "*" not in site or "*" not in target:
            found = [(s, t) for s in _matching(site, offered) for t in _matching(target, offered)]
        elif site.count("*") != target.count("*"):
            raise ConfigError(f"site {site} and target {target} need as many * as each other")
        else:
            found = [(s, _like(s, site, target, offered)) for s in _matching(site, offered)]
        pairs += found
    return pairs


def _like(site: str, pattern: str, target: str, offered: tuple[str, ...]) -> str:
    """``target`` with what each ``*`` of ``pattern`` stands for in ``site``."""
    stars = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), site)
    pieces = target.split("*")
    filled = [a + b for a, b in zip(pieces, [*(stars.groups() if stars else ()), ""], strict=True)]
    return _matching("".join(filled), offered)[0]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _matching(name: str, offered: tuple[str, ...]) -> list[str]:
    if "*" in name:
        found = [site for site in offered if fnmatchcase(site, name)]
    else:
        found = [known for known in (name, canonical_name(name)) if known in offered][:1]
    if not found:
        raise UnknownSiteError(name, known=offered, hint="The source does not have it.")
    return found


def _only(offered: tuple[str, ...]) -> str:
    """The only site; of several, the user names those that are meant (as ``saes.train`` asks)."""
    if len(offered) == 1:
        return offered[0]
    raise ConfigError(
        f"name the sites to train on with --sites; the source has {len(offered)}: "
        f"{', '.join(offered)}"
    )
