"""Learning rate as a pure function of how much of the real horizon is done: warm up, stay, decay to a floor.

Sources: warm-up, stay, decay (2405.18392); linear to near zero is the best of the simple shapes (2310.07831).
"""

from __future__ import annotations


def warm_stay_decay(done: float, warmup: float = 0.02, decay: float = 0.6, floor: float = 0.05) -> float:
    """Share of the horizon done (0 to 1) -> scale of every learning rate (0 to 1).

    Rises linearly over the first `warmup` of the horizon, stays at 1, and falls linearly to `floor` over the
    last `decay`, both shares of the horizon.
    """
    rising = done / warmup if warmup else 1.0
    left = max(1.0 - done, 0.0)
    falling = floor + (1 - floor) * left / decay if decay else 1.0
    return min(rising, 1.0, falling)
