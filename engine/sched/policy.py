"""Who goes first: pure orderings of requests. The smallest is admitted first, the largest preempted first.

Every order ends in the order of arrival, so no two requests are equal. None depends on what is lost by a
preemption; hence two requests can never evict each other for ever.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from engine.errors import ConfigError
from engine.sched.request import Request

Order = Callable[[Request, Mapping[int, int]], tuple[int, ...]]


def fcfs(request: Request, served: Mapping[int, int]) -> tuple[int, ...]:
    """First come, first served."""
    return (request.arrival,)


def priority(request: Request, served: Mapping[int, int]) -> tuple[int, ...]:
    """The lowest priority number first."""
    return (request.priority, request.arrival)


def fair(request: Request, served: Mapping[int, int]) -> tuple[int, ...]:
    """The tenant that has been served the fewest tokens first."""
    return (served[request.tenant], request.arrival)


POLICIES: dict[str, Order] = {"fcfs": fcfs, "priority": priority, "fair": fair}


def find(name: str) -> Order:
    """Raises ConfigError for a name that is none of `POLICIES`."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ConfigError(f"unknown scheduling policy '{name}'; choose one of: {', '.join(POLICIES)}") from None


class Tenants:
    """Tokens each tenant has been served: the virtual token counters of Sheng et al. 2024 (VTC).

    Prompt tokens count once, when a request is first admitted and as far as no cache had them; output tokens
    when they are generated. What a preemption makes us compute again is not charged.
    """

    def __init__(self) -> None:
        self.served: dict[int, int] = {}
        self._open: Counter[int] = Counter()  # requests of each tenant that are waiting or running

    def join(self, tenant: int) -> None:
        """A request arrives. A tenant that was away starts level with the least served: no credit for idling."""
        if tenant not in self._open:
            level = min((self.served[other] for other in self._open), default=0)
            self.served[tenant] = max(level, self.served.get(tenant, 0))
        self._open[tenant] += 1

    def leave(self, tenant: int) -> None:
        """A request has ended; when it was the last of all, everything is forgotten."""
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]
        if not self._open:
            self.served.clear()

    def charge(self, tenant: int, tokens: int) -> None:
        self.served[tenant] += tokens
