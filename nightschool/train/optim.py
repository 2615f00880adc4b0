"""One optimizer: Muon for the matrices inside the blocks, AdamW for embeddings, head and norms.

Muon replaces each matrix's momentum by its nearest orthogonal matrix (Newton-Schulz), so that every direction moves
equally far. Matrices of one shape are stacked and orthogonalised together: a few batched products in place of
hundreds of small ones. State is a flat dict of tensors named after the parameters, as safetensors wants it.
But: no sharding over ranks yet.

Sources: Muon (kellerjordan.github.io/posts/muon), torch.optim.Muon (tested against), AdamW (1711.05101).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Five steps of one quintic: singular values from 0.002 to 1 become 0.68 to 1.14. Four steps of Polar Express
# (2505.16932) are a fifth cheaper, but blow up in bfloat16 where a gradient of rank one is a hair longer than 1.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, rows, columns), rows <= columns -> the same shape in `dtype`, singular values near 1."""
    x = matrices.to(dtype)
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.promote_types(dtype, torch.float32))
    x = x / norm.clamp(min=1e-7).to(dtype)
    for a, b, c in NEWTON_SCHULZ:
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


class Optimizer:
    """`step(lr_scale)` updates the model from its gradients; parameters without a gradient stay as they are."""

    def __init__(
        self,
        model: nn.Module,
        matrix_lr: float = 0.02,
        embed_lr: float = 0.003,
        norm_lr: float = 0.003,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,  # of the matrices; per unit of learning rate, as in AdamW
        adam_weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,  # to orthogonalise in; float32 where bfloat16 is slow
        muon: bool = True,  # False: AdamW for the matrices too, at embed_lr
    ) -> None:
        self.matrix_lr, self.embed_lr, self.norm_lr = matrix_lr, embed_lr, norm_lr
        self.momentum, self.betas, self.eps = momentum, betas, eps
        self.weight_decay, self.adam_weight_decay = weight_decay, adam_weight_decay
        self.dtype = dtype
        self.num_steps = 0
        # shape with the short side first -> the (name, parameter) of that stack
        self.stacks: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
        self.others: dict[str, nn.Parameter] = {}
        self.state: dict[str, Tensor] = {}
        for name, p in model.named_parameters():
            if muon and p.ndim == 2 and "embed" not in name and "lm_head" not in name:
                self.stacks.setdefault((min(p.shape), max(p.shape)), []).append((name, p))
                self.state[f"{name}.momentum"] = torch.zeros_like(p)
            else:
                self.others[name] = p
                self.state[f"{name}.mean"] = torch.zeros_like(p)
                self.state[f"{name}.square"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0) -> None:
        self.num_steps += 1
        for stack in self.stacks.values():
            self._muon([(name, p) for name, p in stack if p.grad is not None], self.matrix_lr * lr_scale)
        for name, p in self.others.items():
            if p.grad is not None:
                self._adamw(name, p, (self.norm_lr if p.ndim == 1 else self.embed_lr) * lr_scale)

    def _muon(self, stack: list[tuple[str, nn.Parameter]], lr: float) -> None:
        if not stack:
            return
        directions = []
        for name, p in stack:
            assert p.grad is not None
            momentum = self.state[f"{name}.momentum"].lerp_(p.grad, 1 - self.momentum)
            update = p.grad.lerp(momentum, self.momentum)  # Nesterov
            directions.append((update if p.shape[0] <= p.shape[1] else update.mT).to(self.dtype))
        updates = orthogonalize(torch.stack(directions), self.dtype)
        for (_, p), update in zip(stack, updates, strict=True):
            rows, columns = p.shape
            p.mul_(1 - lr * self.weight_decay)
            p.add_(update if rows <= columns else update.mT, alpha=-lr * max(1, rows / columns) ** 0.5)

    def _adamw(self, name: str, p: nn.Parameter, lr: float) -> None:
        assert p.grad is not None
        beta1, beta2 = self.betas
        mean = self.state[f"{name}.mean"].lerp_(p.grad, 1 - beta1)
        square = self.state[f"{name}.square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        scale = (1 - beta2**self.num_steps) ** 0.5
        p.mul_(1 - lr * self.adam_weight_decay)
        p.addcdiv_(mean, square.sqrt().div_(scale).add_(self.eps), value=-lr / (1 - beta1**self.num_steps))

    def zero_grad(self) -> None:
        for p in (*self.others.values(), *(p for stack in self.stacks.values() for _, p in stack)):
            p.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Flat: "<parameter>.momentum", or ".mean" and ".square", and "num_steps"."""
        return {**self.state, "num_steps": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError where names or shapes are not this model's."""
        if wrong := state.keys() ^ {*self.state, "num_steps"}:
            raise ValueError(f"optimizer state of another model: {sorted(wrong)[:3]}")
        for name, value in self.state.items():
            if value.shape != state[name].shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}")
            value.copy_(state[name])
        self.num_steps = int(state["num_steps"])
