"""Training objectives: compare the student with the teacher, row by row. A row predicts one token of y'.

The teacher is the unsteered model on x'y' (the prompt with the trait's sentence), the student the steered
model on x y' (without it). Rows are aligned from the end; arXiv 2605.03907 defines MSE and LL.

    MSE   sum over blocks N >= N0 of |student_N - teacher_N|^2 / n_embd        N0: the first steered block
    LL    -log q(y'_t)                                                         q: the student's next-token
    KL    sum over tokens v of p(v) (log p(v) - log q(v))                      p: the guided teacher's
    max(0, 1 - sum of coefficients)     added to MSE and LL, so that no gate closes for good
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

# Tokens of the teacher's distribution that are kept; all 49152 would take 48 times the memory.
TOP = 512

# Guidance does not change tokens less likely than this share of the likeliest one, which it would raise by
# noise; and it changes no log-probability by more than guidance times the limit, in nats.
_PLAUSIBLE, _LIMIT = 0.02, 4.0

# Lower limit of the student's remaining mass: the rounding of 1 in float32.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Top:
    """A distribution's k most likely tokens: ids [rows, k] int32, log_probs [rows, k] float32.

    All other tokens together count as one more outcome; there are none if the vocabulary is at most TOP.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, k: int = TOP) -> Top:
        """The top tokens of logits [rows, n_vocab]."""
        top = torch.log_softmax(logits.float(), -1).topk(min(k, logits.shape[-1]), -1)
        return cls(top.indices.int(), top.values)


def guided(prompted: torch.Tensor, plain: torch.Tensor, guidance: float) -> torch.Tensor:
    """The teacher's logits [rows, n_vocab], moved further from the plain prompt than the trait's prompt goes.

        log p(v) + guidance (log p(v) - log p0(v)) + const        p: after x', p0: after x

    Known as classifier-free guidance. A student that imitates a guided teacher imperfectly can still reach
    the prompt's effect (docs/log.md). guidance 0 is the prompted model itself.
    """
    p, p0 = (torch.log_softmax(each.float(), -1) for each in (prompted, plain))
    plausible = p >= p.amax(-1, keepdim=True) + math.log(_PLAUSIBLE)
    return torch.where(plausible, p + guidance * (p - p0).clamp(-_LIMIT, _LIMIT), p)


def kl(logits: torch.Tensor, teacher: Top) -> torch.Tensor:
    """KL(teacher || student) in nats, [rows], for the student's logits [rows, n_vocab].

    If the teacher has other tokens than its top ones, it is a lower bound of the exact KL (data-processing
    inequality), and its gradient differs only in how their mass is distributed.
    """
    log_q = torch.log_softmax(logits.float(), -1).gather(-1, teacher.ids.long())
    p = teacher.log_probs.exp()
    nats = (p * (teacher.log_probs - log_q)).sum(-1)
    if teacher.ids.shape[-1] == logits.shape[-1]:
        return nats
    rest_p = (1 - p.sum(-1)).clamp_min(_LEAST)
    rest_q = (1 - log_q.exp().sum(-1)).clamp_min(_LEAST)
    return nats + rest_p * (rest_p.log() - rest_q.log())


def ll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, [rows], of the tokens that followed."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def mse(student: Mapping[int, torch.Tensor], teacher: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Mean squared error over dimensions, summed over blocks: [rows], for block outputs [rows, n_embd]."""
    return torch.stack([(student[n] - h).square().mean(-1) for n, h in teacher.items()]).sum(0)


def shortfall(coefficients: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Sum over blocks of max(0, 1 - sum over positions of c), averaged over replies.

    coefficients: block -> c [replies, positions], 0 out of scope.
    """
    return torch.stack([(1 - c.sum(1)).clamp_min(0).mean() for c in coefficients.values()]).sum()
