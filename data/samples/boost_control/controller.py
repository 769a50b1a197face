"""The boost controller: a base duty from the map, corrected by a PI controller."""

from dataclasses import dataclass

DUTY_MIN = 0.0
DUTY_MAX = 95.0


@dataclass
class BoostController:
    """Wastegate duty in percent from target and measured boost in kPa."""

    proportional: float = 0.35
    integral: float = 0.8
    limit: float = 15.0
    _sum: float = 0.0

    def update(self, target: float, measured: float, base_duty: float, dt: float) -> float:
        """One step of `dt` seconds. The integral part stays within +-`limit` percent."""
        error = target - measured
        self._sum = clamp(self._sum + self.integral * error * dt, -self.limit, self.limit)
        return clamp(base_duty + self.proportional * error + self._sum, DUTY_MIN, DUTY_MAX)

    def reset(self) -> None:
        """Forget the integral part, as at every gear change."""
        self._sum = 0.0


def clamp(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))
