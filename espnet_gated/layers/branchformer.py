"""Gated twin of ESPnet's Branchformer layer (Peng et al., ICML 2022)."""

from typing import ClassVar

import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoderLayer
from torch import Tensor
from torch.nn import functional as F

from espnet_gated.gating.costs import linear_flops, module_flops
from espnet_gated.gating.gates import OPEN, LayerGates, ModuleGate
from espnet_gated.layers.attend import attend
from espnet_gated.layers.residual import survive
from espnet_gated.layers.skipping import add_gated, run_gated

BRANCHES = ("attn", "cgmlp")


class GatedBranchformerEncoderLayer(BranchformerEncoderLayer):
    """Branchformer layer whose two branches may be skipped.

    A closed branch contributes zeros to the merge, whatever the merge; with both closed the merge is skipped.
    An instance is made from ESPnet's ready-built layer by changing its class: weights and their names stay.
    """

    gated_modules: ClassVar[tuple[str, ...]] = BRANCHES

    def module_costs(self, frames: float) -> dict[str, float]:
        """FLOPs of each branch on ``frames`` frames.

        A concatenating merge is half each branch's; an averaging one runs while either branch does and is nobody's.
        """
        costs = {}
        for number, name in enumerate(BRANCHES, 1):
            if getattr(self, name) is not None:
                costs[name] = module_flops(getattr(self, name), frames)
                if self._single:
                    costs[name] += linear_flops(self.merge_proj, frames)
                elif self.merge_method == "concat":
                    costs[name] += 0.5 * linear_flops(self.merge_proj, frames)
                elif self.merge_method == "learned_ave":
                    # The scores of the frames and their weighted sum.
                    costs[name] += linear_flops(self._averager(number)[0], frames) + 2.0 * self.size * frames
        return costs

    def forward(self, x_input, mask, cache=None, gates: LayerGates | None = None):  # type: ignore[no-untyped-def]
        """Compute encoded features.

        Args:
            x_input: (B, T, size), or a tuple of it and the position embedding (1, T', size).
            mask: (B, 1, T), true for frames that count.
            cache: not supported, as in ESPnet.
            gates: gates of this layer; missing ones are open.

        Returns:
            output shaped as ``x_input``, and the mask.
        """
        if cache is not None:
            raise NotImplementedError("cache is not supported by Branchformer layers (as in ESPnet)")
        x, pos_emb = x_input if isinstance(x_input, tuple) else (x_input, None)
        scale = survive(self)
        if scale is not None:
            gate = (gates or {}).get
            x = self.norm_final(self._branches(x, pos_emb, mask, gate("attn", OPEN), gate("cgmlp", OPEN), scale))
        return ((x, pos_emb) if pos_emb is not None else x), mask

    @property
    def _single(self) -> bool:
        return not self.use_two_branches

    def _branches(
        self, x: Tensor, pos_emb: Tensor | None, mask: Tensor, attn: ModuleGate, cgmlp: ModuleGate, scale: float
    ) -> Tensor:
        if self._single:
            if self.attn is None:
                return add_gated(x, cgmlp, lambda *a: self._project(self._cgmlp(*a)), x, mask, scale=scale)
            return add_gated(x, attn, lambda *a: self._project(self._attn(*a)), x, pos_emb, mask, scale=scale)
        x1 = run_gated(attn, self._attn, x, pos_emb, mask)
        x2 = run_gated(cgmlp, self._cgmlp, x, mask)
        either = attn.either(cgmlp)
        if self.merge_method == "concat":
            return add_gated(x, either, self._concatenate, x1, x2, scale=scale)
        if self.merge_method == "learned_ave":
            return add_gated(x, either, self._average, x1, x2, mask, scale=scale)
        return add_gated(x, either, self._average_fixed, x1, x2, scale=scale)

    def _attn(self, x: Tensor, pos_emb: Tensor | None, mask: Tensor) -> Tensor:
        return self.dropout(attend(self.attn, self.norm_mha(x), pos_emb, mask))

    def _cgmlp(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.dropout(self.cgmlp(self.norm_mlp(x), mask))

    def _project(self, x: Tensor) -> Tensor:
        return self.dropout(self.merge_proj(x))

    # -- the merges; ``None`` stands for the zeros of a closed branch --------------------------------
    def _concatenate(self, x1: Tensor | None, x2: Tensor | None) -> Tensor:
        if x1 is not None and x2 is not None:
            return self._project(torch.cat([x1, x2], dim=-1))
        branch, half = (x1, slice(None, self.size)) if x2 is None else (x2, slice(self.size, None))
        if not isinstance(self.merge_proj, torch.nn.Linear):  # a quantised one has no weight to slice
            zeros = torch.zeros_like(branch)
            return self._concatenate(zeros if x1 is None else x1, zeros if x2 is None else x2)
        return self.dropout(F.linear(branch, self.merge_proj.weight[:, half], self.merge_proj.bias))

    def _average(self, x1: Tensor | None, x2: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.training and self.attn_branch_drop_rate > 0 and torch.rand(1).item() < self.attn_branch_drop_rate:
            return self._project(torch.zeros_like(x1) if x2 is None else x2)
        branches = (x1, x2)
        scores = [
            self._weight(number, branch, mask, like=x2 if x1 is None else x1)
            for number, branch in enumerate(branches, 1)
        ]
        weights = torch.softmax(torch.cat(scores, dim=-1), dim=-1)[:, :, None, None]
        parts = [weights[:, i] * branch for i, branch in enumerate(branches) if branch is not None]
        return self._project(sum(parts[1:], parts[0]))

    def _averager(self, number: int) -> tuple[torch.nn.Module, torch.nn.Module]:
        return getattr(self, f"pooling_proj{number}"), getattr(self, f"weight_proj{number}")

    def _weight(self, number: int, branch: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor:
        """Merging weight of a branch before softmax, (B, 1): attention pooling over frames, then a projection."""
        pooling, weight = self._averager(number)
        if branch is None:
            return weight(like.new_zeros(like.size(0), self.size))
        score = pooling(branch).transpose(1, 2) / self.size**0.5
        if mask is not None:
            score = score.masked_fill(mask.eq(0), torch.finfo(score.dtype).min)
            score = torch.softmax(score, dim=-1).masked_fill(mask.eq(0), 0.0)
        else:
            score = torch.softmax(score, dim=-1)
        return weight(torch.matmul(score, branch).squeeze(1))

    def _average_fixed(self, x1: Tensor | None, x2: Tensor | None) -> Tensor:
        weights = (1.0 - self.cgmlp_weight, self.cgmlp_weight)
        parts = [w * branch for w, branch in zip(weights, (x1, x2), strict=True) if branch is not None]
        return self._project(sum(parts[1:], parts[0]))
