"""GPT-1's fine-tuning: a task's loss beside that of the language model, on inputs that are one sequence each.

    total = task + lambda LM,   lambda = 0.5,   LM the mean of -log p(x_t | x_<t) over the tokens of the inputs

Radford et al. 2018, eq. 5, where L3 = L2 + lambda L1, and `lm_coef` in their code; the transforms of inputs (section
3.3) are `inputs.py`: two texts in both orders, answers each behind their question.
"""

from torch import Tensor

from bloomery.finetune.inputs import TaskForest
from bloomery.model.headed import Headed
from bloomery.train.objective import token_loss


def language_loss(model: Headed, batch: TaskForest, hidden: Tensor) -> Tensor:
    """The language model's loss on the inputs, so scaled that a step's mean over examples is its mean over tokens."""
    return batch.scale * token_loss(model.trunk, batch, hidden)[0]
