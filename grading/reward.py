"""What grading gives: a reward, and flags for what went wrong. Where something did, the reward is 0.0."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Flag = Literal[
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
]


class CannotGrade(Exception):
    """Grading ended without a reward. `details` are for the user."""

    def __init__(self, flag: Flag, details: str, *, type: str | None = None) -> None:
        super().__init__(details)
        self.flag: Flag = flag
        self.details = details
        self.type = type


@dataclass
class Errors:
    """OpenAI's names.

    `formula_parse_error`: `calculate_output` cannot be read or has no value. `sample_parse_error`: `output_json` is
    asked for and the sample is no JSON. `truncated_observation_error`: a text is longer than a grader can look at.
    `unresponsive_reward_error`: the model grader said nothing. `invalid_variable_error`: a template's variable is
    not there. `python_grader_runtime_error`: the user's code failed; `python_grader_server_error`: the sandbox did.
    """

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    details: str | None = None
    """Not OpenAI's: what the first of the flags is about."""

    def add(self, error: CannotGrade) -> None:
        setattr(self, error.flag, True)
        if error.flag == "python_grader_runtime_error":
            self.python_grader_runtime_error_details = error.details
        elif error.flag == "python_grader_server_error":
            self.python_grader_server_error_type = error.type
        elif error.flag == "model_grader_server_error":
            self.model_grader_server_error_details = error.details
        self.details = self.details or error.details

    def merge(self, other: Errors) -> None:
        """Take over what the other has and this one does not."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) or getattr(other, each.name))

    @property
    def any(self) -> bool:
        return any(getattr(self, each.name) is True for each in fields(self))


@dataclass
class GraderUsage:
    """Tokens of one model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0

    def add(self, other: GraderUsage) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class Graded:
    reward: float = 0.0
    errors: Errors = field(default_factory=Errors)
    scores: dict[str, Any] = field(default_factory=dict)
    """Of a label model: the label. Of a multi grader: each part's reward."""
    sub_rewards: dict[str, float] = field(default_factory=dict)
    usage: dict[str, GraderUsage] = field(default_factory=dict)
    """Model's name -> what grading took of it, also when it failed."""
    sampled_model_name: str | None = None
    execution_time_s: float = 0.0

    @property
    def num_tokens(self) -> int | None:
        """None where no model was asked."""
        return sum(usage.total_tokens for usage in self.usage.values()) if self.usage else None
