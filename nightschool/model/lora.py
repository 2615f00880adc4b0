"""LoRA: a model's matrices stay as they are, and each gets two thin factors that are trained in their place.

A weight W reads as W + alpha / rank * B A, by torch's own parametrization, on all linear layers of the blocks: folding,
decoding and saving see the sum, so a checkpoint holds whole weights and needs no adapter beside it. What it saves is
gradients and optimizer state. But: the frozen weights stay float32, and the sum is made anew in each forward.

C_out, C_in sizes of a matrix, R rank.
Sources: LoRA (2106.09685); all layers and alpha 32 from LoRA Without Regret (thinkingmachines.ai/blog/lora), which has
the rate too: train/plan.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nightschool.model.transformer import Linear, Transformer

ALPHA = 32.0


class Factors(nn.Module):
    """W -> W + scale * B A. B is zero at first, so that training begins at the model as it was."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        C_out, C_in = weight.shape
        bound = C_in**-0.5  # the variance of a matrix as torch.nn.Linear begins with it
        A = torch.empty(rank, C_in).uniform_(-bound, bound, generator=generator)
        self.A = nn.Parameter(A.to(weight.device))
        self.B = nn.Parameter(weight.new_zeros(C_out, rank))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.B, self.A, alpha=self.scale)


def add(model: Transformer, rank: int, alpha: float = ALPHA, seed: int = 0) -> None:
    """Freeze the model and give factors to every linear layer of its blocks; only they require gradients."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for module in list(model.model.layers.modules()):
        if isinstance(module, Linear):
            parametrize.register_parametrization(module, "weight", Factors(module.weight, rank, alpha, generator))


def before(model: Transformer) -> Transformer:
    """The model as it was without factors, over the same frozen weights: it takes no memory of its own."""
    with torch.device("meta"):
        plain = Transformer(model.config, model.dtype)
    frozen = {name.replace("parametrizations.weight.original", "weight"): w for name, w in model.state_dict().items()}
    plain.load_state_dict({name: frozen[name] for name in plain.state_dict()}, assign=True)
    return plain.requires_grad_(False)


@torch.no_grad()
def merged(model: nn.Module) -> dict[str, Tensor]:
    """The state dict the model would have had without factors, each weight the sum."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for part in [key for key in state if key.startswith(f"{name}.parametrizations.")]:
                del state[part]
            state[f"{name}.weight"] = module.weight
    return state
