"""What a gateway is told to serve, as read from settings, manifest and preset at one moment."""

from dataclasses import dataclass

from contracts.tiers import Reloaded
from services.gateway.catalogue import Catalogue
from services.gateway.scheduling.types import Demand, Limits, Target


@dataclass(frozen=True)
class Configuration:
    """`targets` are the catalogue's engines as the scheduler sees them; `budget` is what they may
    hold together, by device."""

    catalogue: Catalogue
    targets: tuple[Target, ...]
    budget: Demand
    limits: Limits

    def change_to(self, new: "Configuration") -> Reloaded:
        """Engines that come, go, or have to be started anew, in the order of their names. What is
        only called, pinned or limited in another way is none of them."""
        old_specs, new_specs = self.catalogue.engines, new.catalogue.engines
        changed = {
            name
            for name in old_specs.keys() & new_specs.keys()
            if old_specs[name].fingerprint != new_specs[name].fingerprint
        }
        return Reloaded(
            added=tuple(sorted(new_specs.keys() - old_specs.keys())),
            changed=tuple(sorted(changed)),
            removed=tuple(sorted(old_specs.keys() - new_specs.keys())),
        )
