"""The limits that each servo keeps for itself, and whether the arm may get torque within them. Pure."""

from dataclasses import dataclass

import numpy as np

from so100_driver.bus.registers import STATUS_SENSOR, status_help
from so100_driver.guard.health import servo
from so100_driver.guard.state import ArmState

WRONG_SUPPLY = "use the supply these servos are made for (7.4 V or 12 V), check plug and leads"


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """Registers Min_Voltage_Limit, Max_Voltage_Limit (V) and Max_Temperature_Limit (degC), each (joints,)."""

    voltage_low: np.ndarray
    voltage_high: np.ndarray
    temperature_high: np.ndarray

    @classmethod
    def unknown(cls, joints: int = 6) -> "OwnLimits":
        """Nothing was read: no limits."""
        return cls(np.full(joints, -np.inf), np.full(joints, np.inf), np.full(joints, np.inf))

    def supply(self, volts: np.ndarray) -> str:
        """Which servos get another voltage (joints,) than they allow, one sentence; "" when none does."""
        outside = np.flatnonzero((volts < self.voltage_low - 1e-6) | (volts > self.voltage_high + 1e-6))
        parts = [
            f"{servo(int(i))} {volts[i]:.1f} V (its own limits: {low:.1f} to {high:.1f} V)"
            for i, low, high in zip(outside, self.voltage_low[outside], self.voltage_high[outside], strict=True)
        ]
        return ", ".join(parts)

    def heat(self, degrees: np.ndarray) -> str:
        """Which servos are hotter (joints,) than they allow, one sentence; "" when none is."""
        hot = np.flatnonzero(degrees >= self.temperature_high)
        parts = [f"{servo(int(i))} {degrees[i]:.0f} degC (its own limit: {self.temperature_high[i]:.0f})" for i in hot]
        return ", ".join(parts)

    def unfit(self, seen: ArmState, *, holding: bool) -> str:
        """Why torque must not be switched on now, one sentence; "" when it may.

        Heat does not count when every servo has torque already (`holding`): such an arm must be brought to rest.
        """
        if found := self.supply(seen.voltage):
            return f"supply: {found}: {WRONG_SUPPLY}"
        if not holding and (found := self.heat(seen.temperature)):
            return f"temperature: {found}: let it cool"
        blind = np.flatnonzero(seen.error_bits.astype(int) & STATUS_SENSOR)
        return "; ".join(f"{servo(int(i))} reports {status_help(STATUS_SENSOR)}" for i in blind)
