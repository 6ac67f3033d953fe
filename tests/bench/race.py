"""Contestants side by side: every run drives each of them, one after another."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Mapping

from .comparison import standings, verdicts
from .hosts import Host, Unavailable, cores
from .lineup import BARE, CONTESTANTS
from .options import Options
from .rows import Row
from .swarm import Stalled
from .workloads import WORKLOADS, Sample, Workload

__all__ = ["measure_servers"]


class Race:
    """One after another they are driven; the others stand by, and have nothing to do.

    Their processes live as long as a workload: warm from the second run on, and without what an earlier
    workload would leave of their heap.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._server, client = cores()
        if client == self._server:
            say("there is only one core: the load generator takes its time from the servers")
        os.sched_setaffinity(0, client)
        self.figures: dict[str, dict[str, dict[int, Sample]]] = defaultdict(lambda: defaultdict(dict))

    def run(self, workload: Workload) -> None:
        names = [name for name in CONTESTANTS if self._takes_part(name, workload)]
        if workload.afresh:
            for number in range(self._options.runs):
                for name in names:
                    with contextlib.ExitStack() as stack:
                        self._measure_all(workload, self._start([name], stack), number)
            return
        with contextlib.ExitStack() as stack:
            hosts = self._start(names, stack)
            for number in range(self._options.runs):
                self._measure_all(workload, hosts, number)

    def _takes_part(self, name: str, workload: Workload) -> bool:
        if workload.contestants and name not in workload.contestants:
            return False
        return name == BARE or not self._options.contestants or name in self._options.contestants

    def _start(self, names: list[str], stack: contextlib.ExitStack) -> dict[str, Host]:
        hosts: dict[str, Host] = {}
        for name in names:
            try:
                hosts[name] = stack.enter_context(Host(name, CONTESTANTS[name], self._server))
            except Unavailable as reason:
                say(f"without {name}: {reason}")
        return hosts

    def _measure_all(self, workload: Workload, hosts: Mapping[str, Host], number: int) -> None:
        for name, host in hosts.items():
            try:
                measured = workload.measure(host, self._options.scale)
            except (OSError, Stalled) as error:
                say(f"{name}, run {number + 1}: {error!r}")
                continue
            for figure, sample in measured.items():
                self.figures[figure][name][number] = sample
                say(f"run {number + 1}: {figure:34}{name:26}{sample.value:14,.1f}{sample.client:8.0%}")


def say(line: str) -> None:
    """Progress: the table alone goes to the standard output."""
    print(line, file=sys.stderr, flush=True)


async def measure_servers(options: Options) -> list[Row]:
    race = Race(options)
    for name in options.only or WORKLOADS:
        race.run(WORKLOADS[name])
    return [*verdicts(race.figures), *standings(race.figures)]
