"""KL divergence of a student from a teacher, row by row. A row predicts one token of the reply y'.

    KL    sum over tokens v of p(v) (log p(v) - log q(v))

    p: the unsteered model's next-token distribution on x'y' (the prompt with the trait's sentence)
    q: the steered model's on x y' (without it); rows are aligned from the end, as in arXiv 2605.03907
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Tokens of the teacher's distribution that are kept; all 49152 would take 192 times the memory.
TOP = 256

# Lower limit of a distribution's remaining mass: the rounding of 1 in float32.
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


def kl(logits: torch.Tensor, teacher: Top) -> torch.Tensor:
    """KL(teacher || student) in nats, [rows], for the student's logits [rows, n_vocab].

    If the teacher has other tokens than its top ones, it is a lower bound of the exact KL (data-processing
    inequality), and its gradient differs only in how their mass is distributed.
    """
    log_q = logits.float().gather(-1, teacher.ids.long()) - logits.float().logsumexp(-1, keepdim=True)
    p = teacher.log_probs.exp()
    nats = (p * (teacher.log_probs - log_q)).sum(-1)
    if teacher.ids.shape[-1] == logits.shape[-1]:
        return nats
    rest_p = (1 - p.sum(-1)).clamp_min(_LEAST)
    rest_q = (1 - log_q.exp().sum(-1)).clamp_min(_LEAST)
    return nats + rest_p * (rest_p.log() - rest_q.log())
