"""One optimizer: Muon for the matrices inside the blocks, AdamW for embeddings, head, norms and LoRA's factors.

Muon replaces each matrix's momentum by its nearest orthogonal matrix (Newton-Schulz), so that every direction moves
equally far. Matrices of one shape are stacked and orthogonalised together: a few batched products in place of
hundreds of small ones.

Over several ranks it is sharded, and there is no other container: each matrix and norm belongs to one rank, embeddings
and head by rows to all. Gradients are summed into their owners' hands while the backward pass still runs, an owner
updates its own, and all copy from it. State, a flat dict of tensors named after the parameters, is saved whole, so
that another number of ranks can go on with it. But: every rank holds all weights and gradients (as ZeRO-1 does).

Sources: Muon (kellerjordan.github.io/posts/muon), torch.optim.Muon (tested against), AdamW (1711.05101), ZeRO
(1910.02054).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from nightschool import ranks

# Five steps of one quintic: singular values from 0.002 to 1 become 0.68 to 1.14. Four steps of Polar Express
# (2505.16932) are a fifth cheaper, but blow up in bfloat16 where a gradient of rank one is a hair longer than 1.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
MOMENTUM = 0.95  # Muon's
BETAS, EPS = (0.9, 0.95), 1e-8  # AdamW's, whose weights do not decay
MUON, ADAMW = ("momentum",), ("mean", "square")  # what each keeps of a parameter
NO_MUON = ("embed", "lm_head", "parametrizations")  # matrices whose names have these; the last are LoRA's factors


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


@dataclass(frozen=True, eq=False)
class Piece:
    """What one rank updates: a whole parameter, or some rows of one."""

    name: str
    parameter: nn.Parameter
    rows: slice
    kinds: tuple[str, ...]  # of its state: MUON or ADAMW

    @property
    def values(self) -> Tensor:
        return self.parameter.detach()[self.rows]

    @property
    def grad(self) -> Tensor:
        assert self.parameter.grad is not None, self.name
        return self.parameter.grad[self.rows]


Bucket = list[Piece | None]  # the piece of each rank, all of one size; None where there are fewer pieces than ranks


def pieces_of(model: nn.Module, num_ranks: int, muon: bool = True) -> list[Piece]:
    """Everything to train, in the model's order; embeddings and head in equal shares of rows and what remains."""
    pieces = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        rows = p.shape[0]
        if muon and p.ndim == 2 and not any(part in name for part in NO_MUON):
            pieces.append(Piece(name, p, slice(0, rows), MUON))
            continue
        share = rows // num_ranks if p.ndim == 2 else rows
        edges = [*range(0, rows, share or rows), rows]
        pieces += [Piece(name, p, slice(a, b), ADAMW) for a, b in pairwise(edges)]
    return pieces


def deal(pieces: list[Piece], num_ranks: int) -> list[Bucket]:
    """Buckets with a piece for each rank, the ones first whose gradients are there first: those of the last layers."""
    places = {piece: i for i, piece in enumerate(pieces)}
    alike: dict[tuple[tuple[str, ...], int], list[Piece]] = {}
    for piece in reversed(pieces):
        alike.setdefault((piece.kinds, piece.values.numel()), []).append(piece)
    buckets, num_dealt = list[Bucket](), 0
    for group in alike.values():
        for i in range(0, len(group), num_ranks):
            bucket: Bucket = [None] * num_ranks
            for piece in group[i : i + num_ranks]:
                bucket[num_dealt % num_ranks] = piece  # in turn, so that no rank gets all that is left over
                num_dealt += 1
            buckets.append(bucket)
    return sorted(buckets, key=lambda bucket: -min(places[piece] for piece in bucket if piece))


def flat(bucket: Bucket, tensor_of: Callable[[Piece], Tensor | None]) -> list[Tensor]:
    """A view of each piece's tensor in one dimension; zeros where there is no piece or no tensor."""
    some = next(piece.values for piece in bucket if piece)
    found = (tensor_of(piece) if piece else None for piece in bucket)
    return [some.new_zeros(some.numel()) if tensor is None else tensor.view(-1) for tensor in found]


class Optimizer:
    """After a backward pass `reduce`, then `step(lr_scale)`. Parameters that need no gradient are not its business."""

    def __init__(
        self,
        model: nn.Module,
        matrix_lr: float = 0.02,
        embed_lr: float = 0.003,
        norm_lr: float = 0.003,
        weight_decay: float = 0.0,  # of the matrices; per unit of learning rate, as in AdamW
        dtype: torch.dtype = torch.bfloat16,  # to orthogonalise in; float32 where bfloat16 is slow
        muon: bool = True,  # False: AdamW for the matrices too, at embed_lr
    ) -> None:
        self.matrix_lr, self.embed_lr, self.norm_lr = matrix_lr, embed_lr, norm_lr
        self.weight_decay, self.dtype = weight_decay, dtype
        self.num_steps = 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.pieces = pieces_of(model, ranks.size(), muon)
        self.buckets = deal(self.pieces, ranks.size())
        mine = {bucket[ranks.rank()] for bucket in self.buckets}
        self.own = [piece for piece in self.pieces if piece in mine]
        self.state = {(piece, kind): torch.zeros_like(piece.values) for piece in self.own for kind in piece.kinds}
        self.stacks: dict[tuple[int, int], list[Piece]] = {}  # own matrices by shape, the short side first
        for piece in self.own:
            if piece.kinds == MUON:
                short, long = sorted(piece.parameter.shape)
                self.stacks.setdefault((short, long), []).append(piece)
        self.missing: list[set[nn.Parameter]] = []  # of each bucket, the gradients that its sum still waits for
        self.sums: list[Callable[[], None]] = []  # of the buckets whose sum has begun, what waits for its end
        if ranks.size() > 1:
            for p in self.parameters:
                p.register_post_accumulate_grad_hook(self._arrived)

    def expect(self) -> None:
        """The next backward pass is the last before `reduce`: sums may begin in the midst of it."""
        self.missing = [{piece.parameter for piece in bucket if piece} for bucket in self.buckets]

    def _arrived(self, p: nn.Parameter) -> None:
        for missing in self.missing:
            missing.discard(p)
        # In one order on all ranks, whatever the order in which gradients arrive.
        while self.missing and len(self.sums) < len(self.buckets) and not self.missing[len(self.sums)]:
            self._begin_sum()

    def _begin_sum(self) -> None:
        bucket = self.buckets[len(self.sums)]
        self.sums.append(ranks.sum_to_owners(flat(bucket, lambda piece: piece.grad)))

    def reduce(self) -> list[Tensor]:
        """Sum the gradients over the ranks, a missing one being 0; return those of this rank's own pieces."""
        self.missing = []
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if ranks.size() > 1:
            while len(self.sums) < len(self.buckets):
                self._begin_sum()
            self._end_sums()
        return [piece.grad for piece in self.own]

    def _end_sums(self) -> None:
        for wait in self.sums:
            wait()
        self.sums = []

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0) -> None:
        self.num_steps += 1
        for stack in self.stacks.values():
            self._muon(stack, self.matrix_lr * lr_scale)
        for piece in self.own:
            if piece.kinds == ADAMW:
                self._adamw(piece, (self.norm_lr if piece.parameter.ndim == 1 else self.embed_lr) * lr_scale)
        if ranks.size() > 1:
            copies = [ranks.copy_from_owners(flat(bucket, lambda piece: piece.values)) for bucket in self.buckets]
            for wait in copies:
                wait()

    def _muon(self, stack: list[Piece], lr: float) -> None:
        directions = []
        for piece in stack:
            momentum = self.state[piece, "momentum"].lerp_(piece.grad, 1 - MOMENTUM)
            update = piece.grad.lerp(momentum, MOMENTUM)  # Nesterov
            directions.append((update if update.shape[0] <= update.shape[1] else update.mT).to(self.dtype))
        updates = orthogonalize(torch.stack(directions), self.dtype)
        for piece, update in zip(stack, updates, strict=True):
            p = piece.values
            rows, columns = p.shape
            p.mul_(1 - lr * self.weight_decay)
            p.add_(update if rows <= columns else update.mT, alpha=-lr * max(1, rows / columns) ** 0.5)

    def _adamw(self, piece: Piece, lr: float) -> None:
        p, grad = piece.values, piece.grad
        beta1, beta2 = BETAS
        mean = self.state[piece, "mean"].lerp_(grad, 1 - beta1)
        square = self.state[piece, "square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = (1 - beta2**self.num_steps) ** 0.5
        p.addcdiv_(mean, square.sqrt().div_(scale).add_(EPS), value=-lr / (1 - beta1**self.num_steps))

    def zero_grad(self) -> None:
        self._end_sums()  # of a backward pass that is to be repeated
        self.missing = []
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Flat: "<parameter>.momentum", or ".mean" and ".square", and "num_steps". All ranks call; 0 gets it."""
        count = {"num_steps": torch.tensor(self.num_steps)}
        if ranks.size() == 1:
            return {f"{piece.name}.{kind}": tensor for (piece, kind), tensor in self.state.items()} | count
        whole = {name: torch.empty(shape) for name, shape in self._shapes().items()}
        for bucket in self.buckets:
            for kind in next(piece for piece in bucket if piece).kinds:
                copies = flat(bucket, lambda piece, kind=kind: self.state.get((piece, kind)))  # type: ignore[misc]
                ranks.copy_from_owners(copies)()
                for piece, copy in zip(bucket, copies, strict=True):
                    if piece and ranks.rank() == 0:
                        whole[f"{piece.name}.{kind}"][piece.rows] = copy.view(piece.values.shape)
        return whole | count

    def _shapes(self) -> dict[str, torch.Size]:
        return {f"{piece.name}.{kind}": piece.parameter.shape for piece in self.pieces for kind in piece.kinds}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take one's own of a whole state. Raises ValueError where names or shapes are not this model's."""
        shapes = self._shapes()
        if wrong := state.keys() ^ {*shapes, "num_steps"}:
            raise ValueError(f"optimizer state of another model: {sorted(wrong)[:3]}")
        for name, shape in shapes.items():
            if shape != state[name].shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(shape)}")
        for (piece, kind), value in self.state.items():
            value.copy_(state[f"{piece.name}.{kind}"][piece.rows])
        self.num_steps = int(state["num_steps"])
