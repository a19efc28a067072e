"""How probable models find the answers that rows want: what free answers are measured by where nobody grades them.

The answer is put behind the question, token by token as training does, and read instead of written. Whoever has no base's files
at hand cannot know the tokens; the measure of the texts has to do then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog

from storage.models import base_models
from storage.models.base_models import Catalogue
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError
from text.tokenizer import TokenizerError

from .asking import TEXT_PATH, ReportQuestion
from .cases import Case
from .contenders import Contender, Ground
from .context import ReportContext
from .parts import Answered

NAME = "likelihood of the wanted answer, a token"
MAX_PROMPT_TOKENS = 4096

log = structlog.get_logger()


class Likelihood:
    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    @classmethod
    def open(cls, context: ReportContext) -> Likelihood | None:
        """None where the base's files are not on this host."""
        settings = context.errands.settings
        base = Catalogue.load(settings.data_dir, settings.aliases).get(context.base)
        if base is None:
            return None
        path = base_models.path(settings.bases_dir.resolve(), base)
        try:
            return cls(ChatTemplate.load(path, document_end=base.document_end))
        except (OSError, ValueError, ChatTemplateError, TokenizerError) as error:
            log.info("report.base_not_at_hand", base=base.id, error=str(error))
            return None

    def question(self, ground: Ground, contender: Contender, case: Case) -> ReportQuestion | None:
        """None for one that cannot be put in tokens, or is too long."""
        near = ground.near(case, contender.num_near) if contender.num_near else ()
        try:
            ids, num_wanted = self._tokens(contender, case, near)
        except ChatTemplateError:
            return None
        if not num_wanted or len(ids) > MAX_PROMPT_TOKENS:
            return None
        body = {
            "model": contender.model,
            "prompt": ids,
            "max_tokens": 0,
            "echo": True,
            "logprobs": 0,
            "temperature": 0,
        }
        key = f"{contender.name}:{case.key}"
        return ReportQuestion(key, TEXT_PATH, body, num_logprobs=num_wanted)

    def _tokens(
        self, contender: Contender, case: Case, near: Sequence[Case]
    ) -> tuple[list[int], int]:
        """All of them, and how many at the end are the answer."""
        shots = [*contender.prompt.shots, *near]
        if case.is_chat:
            asked = contender.prompt.messages(case, shots)
            context = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in asked]
            answer = {"role": "assistant", "content": case.wanted.text}
            example = self._template.tokenize_chat([*context, answer], list(case.tools) or None)
        else:
            prompt = contender.prompt.text(case, shots)
            example = self._template.tokenize_completion(prompt, case.wanted.text)
        return example.input_ids, sum(1 for weight in example.weights if weight)


def mean_likelihood(answered: Answered) -> float:
    """The geometric mean of the tokens' probabilities."""
    if not answered.logprobs:
        return 0.0
    return math.exp(sum(answered.logprobs) / len(answered.logprobs))
