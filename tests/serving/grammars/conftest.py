from __future__ import annotations

from pathlib import Path

import pytest

from serving.engine.constraints import GrammarVocabulary
from text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def grammar_vocabulary(base_path: Path, tokenizer: Tokenizer) -> GrammarVocabulary:
    return GrammarVocabulary(
        base_path / "tokenizer.json", vocab_size=259, stop_ids=tokenizer.stop_ids
    )
