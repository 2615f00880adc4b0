"""The one update of RL: it consumes per-token streams and does not know which algorithm wrote them.

    adv        advantage of a sampled token; 0 elsewhere
    old_logp   its log-prob where it was sampled
    share      what a sampled token counts in the mean
    ce_weight  weight of plain cross-entropy: replay of what must not be forgotten, what the world answered

One update is made of each batch of attempts, so the ratio of new to old probability is 1 but for rounding and neither
clip binds often; they are here because they are part of what methods are called. But: no second pass over a batch.

Sources: CISPO (2506.13585), the default: the ratio is cut off above and held constant; DAPO (2503.14476): PPO's clip,
with more room above than below.
"""

from __future__ import annotations

from typing import Literal

import torch

from nightschool.model.transformer import Transformer
from nightschool.text.packing import Batch
from nightschool.train.losses import Losses, log_probs

Clip = Literal["cispo", "dapo"]
LARGEST_RATIO = 2.0  # CISPO's cut
LOW, HIGH = 0.2, 0.28  # DAPO's


def policy(model: Transformer, batch: Batch, clip: Clip = "cispo") -> Losses:
    """ "policy" is a mean over sampled tokens, weighed by their share, "replay" one over the replayed ones."""
    logp = log_probs(model, batch)  # (B, T), 0 where weights are 0
    replayed = batch.streams["ce_weight"]
    share = batch.weights * batch.streams["share"]
    adv = batch.streams["adv"]
    if clip == "cispo":
        ratio = (logp.detach() - batch.streams["old_logp"]).exp().clamp(max=LARGEST_RATIO)
        gain = ratio * adv * logp
    else:
        ratio = (logp - batch.streams["old_logp"]).exp()
        gain = torch.minimum(ratio * adv, ratio.clamp(1 - LOW, 1 + HIGH) * adv)
    return {
        "policy": (-(share * gain).sum(), share.sum()),
        "replay": (-(replayed * logp).sum(), replayed.sum()),
    }
