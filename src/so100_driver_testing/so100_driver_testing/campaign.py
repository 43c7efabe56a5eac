"""The fault campaign: `./grids bench driver --campaign [--short]`.

Runs the real driver node on the twin's serial line under every fault of `scenarios` and checks the promises on the
twin's log of goals and torque. Prints a table; the last line is one JSON object with "runs" and "violations".
"""

import argparse
import json
import os
import random
import sys
import time
import traceback
from dataclasses import dataclass, field

from so100_driver_testing.rig import Rig
from so100_driver_testing.scenarios import SCENARIOS, FaultScenario, named


@dataclass(slots=True)
class CampaignRow:
    """Runs and violations of one scenario: one line of the table."""

    name: str
    runs: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Campaign:
    """Keeps one twin and, for scenarios that share it, one driver; starts new ones after a violation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rig: Rig | None = None

    def run(self, scenario: FaultScenario, index: int) -> list[str]:
        """One run of a scenario; returns its violations. An error of the test rig is a violation too."""
        rng = random.Random(f"{self.seed}/{scenario.name}/{index}")
        try:
            rig = self._ready(fresh=scenario.fresh)
            found = scenario.act(rig, rng)
        except Exception as error:
            found = [f"could not run: {''.join(traceback.format_exception_only(error)).strip()}"]
        if found or scenario.name == "temperature ramp":
            self.close()  # a hot servo stays hot, and after a violation the state is unknown
        elif scenario.fresh:
            self._rig.client.swinging(on=False)
            self._rig.stop_driver()
        return found

    def _ready(self, *, fresh: bool) -> Rig:
        if self._rig is None:
            self._rig = Rig("--operator", "topic")
        rig = self._rig
        if fresh:
            rig.client.swinging(on=False)
            rig.stop_driver()
            return rig
        if rig.driver is None or not rig.driver.alive:
            rig.start()
        if not rig.recover():
            raise RuntimeError(f"the driver does not move: {rig.client.status.reason}")
        return rig

    def close(self) -> None:
        """End driver and twin."""
        if self._rig is not None:
            self._rig.close()
            self._rig = None


def table(rows: list[CampaignRow]) -> str:
    """The results as a text table with a header; at most five violations of each scenario."""
    lines = [f"{'fault':40} {'runs':>5} {'violations':>11} {'s':>7}"]
    for row in rows:
        lines.append(f"{row.name:40} {row.runs:5d} {len(row.violations):11d} {row.seconds:7.1f}")
        lines += [f"    {text}" for text in row.violations[:5]]
    return "\n".join(lines)


def run(scenarios: tuple[FaultScenario, ...], *, short: bool, seed: int, say=lambda text: None) -> list[CampaignRow]:
    """Run every scenario its number of times; `say` gets one line for each scenario."""
    campaign, rows = Campaign(seed), []
    try:
        for scenario in scenarios:
            row, began = CampaignRow(scenario.name), time.monotonic()
            for index in range(scenario.short if short else scenario.long):
                row.violations += campaign.run(scenario, index)
                row.runs += 1
            row.seconds = time.monotonic() - began
            if row.runs:
                rows.append(row)
                say(table([row]).splitlines()[1] + "".join(f"\n    {v}" for v in row.violations[:5]))
    finally:
        campaign.close()
    return rows


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 without violations, 1 with."""
    parser = argparse.ArgumentParser(prog="grids bench driver --campaign", description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="one run of each fault, about a minute")
    length.add_argument("--long", action="store_true", help="every fault many times (the default)")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random joints and times")
    chosen = parser.parse_args(argv)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    scenarios = named(chosen.only) if chosen.only else SCENARIOS
    if not scenarios:
        parser.error(f"expected a part of one of {[s.name for s in SCENARIOS]}, got {chosen.only!r}")
    say = lambda text: (sys.stdout.write(text + "\n"), sys.stdout.flush())  # noqa: E731
    say(table([]))
    rows = run(scenarios, short=chosen.short, seed=chosen.seed, say=say)
    runs, violations = sum(r.runs for r in rows), sum(len(r.violations) for r in rows)
    faults = [{"fault": r.name, "runs": r.runs, "violations": len(r.violations)} for r in rows]
    say(json.dumps({"runs": runs, "violations": violations, "faults": faults}))
    return 0 if violations == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
