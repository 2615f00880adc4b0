"""The one update of RL: it consumes per-token streams and does not know which algorithm wrote them.

    adv        advantage of a sampled token; 0 elsewhere
    old_logp   its log-prob where it was sampled
    ce_weight  weight of plain cross-entropy: replay of what must not be forgotten

Sources: REINFORCE with the importance weight cut off above and held constant, as in CISPO (2506.13585).
"""

from __future__ import annotations

from nightschool.model.transformer import Transformer
from nightschool.text.packing import Batch
from nightschool.train.losses import Losses, log_probs

LARGEST_RATIO = 2.0  # engine and model differ by rounding alone, so this seldom binds


def policy(model: Transformer, batch: Batch) -> Losses:
    """ "policy" is averaged over the sampled tokens that credit moves, "replay" over the replayed ones.

    Where a model is mostly right, most credit is 0; were these tokens counted, replay would drown out what is left.
    """
    logp = log_probs(model, batch)  # (B, T), 0 where weights are 0
    replayed = batch.streams["ce_weight"]
    sampled = batch.weights * (replayed == 0)
    adv = batch.streams["adv"]
    ratio = (logp.detach() - batch.streams["old_logp"]).exp().clamp(max=LARGEST_RATIO)
    return {
        "policy": (-(sampled * ratio * adv * logp).sum(), (sampled * (adv != 0)).sum()),
        "replay": (-(replayed * logp).sum(), replayed.sum()),
    }
