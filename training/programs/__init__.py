"""Programs: what a step of each method does, in terms of the primitives. A page each.

What all of them share is the course's. Imports what `training` may. Begin with `supervised`.
"""

from __future__ import annotations

from training.course import Program
from training.messages import TrainConfig
from training.primitives import Learner

from .supervised import SupervisedProgram


def program_of(config: TrainConfig, learner: Learner) -> Program:
    """With a second method: by the `kind` of `config.method`."""
    return SupervisedProgram(config, learner)
