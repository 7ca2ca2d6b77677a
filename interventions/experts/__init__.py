"""Mixtures of experts, tuned: who is routed where, which experts differ, and what they do.

``experts.suppress([(layer, expert)])`` and its kin give plans; ``experts.routing`` captures who
chose whom, ``experts.stored_routing`` reads it from a store; ``experts.ftri`` ranks experts between
classes of prompts; ``expert_study`` tests the ranked ones on other prompts beside matched random
experts, ``expert_scan`` tests every one. Source: Dahlke et al. 2025, arXiv:2502.11096 (no code is
published; everything here is from the formulas).
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if TYPE_CHECKING:
    from lensbench.interventions.experts.behaviour import Behaviour as Behaviour
    from lensbench.interventions.experts.behaviour import NextToken as NextToken
    from lensbench.interventions.experts.behaviour import Response as Response
    from lensbench.interventions.experts.behaviour import Says as Says
    from lensbench.interventions.experts.maps import RoutingMaps as RoutingMaps
    from lensbench.interventions.experts.maps import routing as routing
    from lensbench.interventions.experts.matching import matched_random as matched_random
    from lensbench.interventions.experts.plans import force as force
    from lensbench.interventions.experts.plans import reroute as reroute
    from lensbench.interventions.experts.plans import scale as scale
    from lensbench.interventions.experts.plans import suppress as suppress
    from lensbench.interventions.experts.ranking import ExpertRanking as ExpertRanking
    from lensbench.interventions.experts.ranking import ftri as ftri
    from lensbench.interventions.experts.report import ExpertReport as ExpertReport
    from lensbench.interventions.experts.scan import ExpertScan as ExpertScan
    from lensbench.interventions.experts.scan import expert_scan as expert_scan
    from lensbench.interventions.experts.stored import stored_routing as stored_routing
    from lensbench.interventions.experts.study import expert_study as expert_study

_HOME = {
    "Behaviour": "behaviour",
    "ExpertRanking": "ranking",
    "ExpertReport": "report",
    "ExpertScan": "scan",
    "NextToken": "behaviour",
    "Response": "behaviour",
    "RoutingMaps": "maps",
    "Says": "behaviour",
    "expert_scan": "scan",
    "expert_study": "study",
    "force": "plans",
    "ftri": "ranking",
    "matched_random": "matching",
    "reroute": "plans",
    "routing": "maps",
    "scale": "plans",
    "stored_routing": "stored",
    "suppress": "plans",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME)
