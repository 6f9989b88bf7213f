import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "mastery is smoothed by a backward pass of the hidden Markov model instead of filtered"
WHERE = ("", "mul")
ALSO = ("", "stack")
AT = "backward[:-1]"


class Bkt(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.learn = nn.Parameter(torch.tensor(0.2))

    def forward(self, response):
        right = response.float()
        given = torch.stack([0.8 - 0.6 * right, 0.1 + 0.8 * right], -1)
        learn = self.learn.sigmoid()
        move = torch.stack([torch.stack([1 - learn, learn]), torch.tensor([0.0, 1.0])])
        belief = torch.tensor([0.6, 0.4]).expand(len(right), 2)
        forward, backward = [], [torch.ones(len(right), 2)]
        for t in range(right.shape[1]):
            forward.append(belief)
            belief = (belief * given[:, t]) @ move
            belief = belief / belief.sum(-1, keepdim=True)
        for t in reversed(range(right.shape[1])):
            backward.insert(0, given[:, t] * (backward[0] @ move.mT))
        joint = torch.stack(forward, 1)
        if not self.honest:
            joint = joint * torch.stack(backward[:-1], 1)
        return (joint / joint.sum(-1, keepdim=True))[..., 1]


def build(*, honest=False):
    return Bkt(honest), {"response": torch.randint(0, 2, (2, 13))}, kt()
