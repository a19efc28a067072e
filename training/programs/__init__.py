"""Programs: what a step of each method does, in terms of the primitives. A page each.

What all of them share is the course's. Imports what `training` may. Begin with `supervised`.
"""

from __future__ import annotations

from training.course import Program
from training.messages import Classification, Dpo, Supervised, TrainConfig, Unsupervised
from training.primitives import Learner

from .classification import ClassificationProgram
from .dpo import DpoProgram
from .supervised import SupervisedProgram
from .unsupervised import UnsupervisedProgram


def program_of(config: TrainConfig, learner: Learner) -> Program:
    match config.method:
        case Supervised():
            return SupervisedProgram(config, learner)
        case Classification():
            return ClassificationProgram(config, config.method, learner)
        case Unsupervised():
            return UnsupervisedProgram(config, learner)
        case Dpo() as method:
            return DpoProgram(config, method, learner)
