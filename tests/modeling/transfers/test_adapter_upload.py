"""Adapters as TRL, Unsloth, LLaMA-Factory and Axolotl save them, and archives that are something else."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from foundation import leash
from modeling.artifacts import lora
from modeling.transfers import __main__ as transfers_main
from modeling.transfers import adapter_upload
from modeling.transfers.merged import TransferFailed, base_config
from tests.errands.transfers.scene import adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IDS = torch.arange(20)[None]

Files = Mapping[str, bytes]


def tarred(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def files(base_path: Path, tmp_path: Path) -> dict[str, bytes]:
    """A good adapter's."""
    folder = adapter(base_path, tmp_path / "made")
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


@pytest.fixture
def convert(base_path: Path, tmp_path: Path) -> Callable[[bytes], dict[str, Any]]:
    def run(archive: bytes) -> dict[str, Any]:
        (tmp_path / "upload").write_bytes(archive)
        return adapter_upload.convert(
            tmp_path / "upload", base_path, "tiny-random", tmp_path / "adapter"
        )

    return run


Convert = Callable[[bytes], dict[str, Any]]


def configured(files: Files, **options: Any) -> dict[str, bytes]:
    config = {**json.loads(files[CONFIG]), **options}
    return {**files, CONFIG: json.dumps(config).encode()}


# What these trainers leave in adapter_config.json beside PEFT's own defaults.
TRAINERS: dict[str, dict[str, Any]] = {
    "trl": {
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "auto_mapping": None,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
        "ensure_weight_tying": False,
        "peft_version": "0.21.2",
    },
    "unsloth": {
        "base_model_name_or_path": "unsloth/smollm2-135m-instruct-bnb-4bit",
        "auto_mapping": {
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
            "unsloth_fixed": True,
        },
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)",
        "loftq_config": {},
        "layers_to_transform": None,
        "revision": None,
    },
    "llama-factory": {
        "base_model_name_or_path": "/home/somebody/models/base",
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": ["v_proj", "q_proj"],
        "exclude_modules": None,
        "qalora_group_size": 16,
    },
    "axolotl": {
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M",
        "task_type": None,
        "fan_in_fan_out": False,
        "megatron_core": "megatron.core",
        "trainable_token_indices": None,
        "corda_config": None,
        "eva_config": None,
    },
}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("pack", [tarred, zipped])
def test_adapters_of_other_trainers_are_taken(
    files: dict[str, bytes],
    convert: Convert,
    base_path: Path,
    tmp_path: Path,
    trainer: str,
    pack: Callable[[Files], bytes],
) -> None:
    given = configured(files, **TRAINERS[trainer])
    more = {"README.md": b"A model card", "tokenizer.json": b"{}", "training_args.bin": b"\x80"}
    manifest = convert(pack({f"out/{name}": data for name, data in {**given, **more}.items()}))
    assert manifest["spec"]["rank"] == 4
    assert manifest["spec"]["target_modules"] == sorted(lora.TARGET_MODULES)
    made = tmp_path / "adapter"
    assert {file.name for file in made.iterdir()} == {CONFIG, WEIGHTS}
    config = base_config(base_path)
    before, after = (
        lora.read(folder, config).manifest()["tensors"] for folder in (tmp_path / "made", made)
    )
    assert after == before == manifest["tensors"]
    assert json.loads((made / CONFIG).read_text())["base_model_name_or_path"] == "tiny-random"


def test_what_peft_saves_means_the_same_afterwards(
    convert: Convert, base_path: Path, tmp_path: Path
) -> None:
    """Ranks and scales that differ by module, rsLoRA, and bf16."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"down_proj": 32},
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_path), config)
    model.to(torch.bfloat16).save_pretrained(str(tmp_path / "peft"))
    saved = {name: (tmp_path / "peft" / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    convert(tarred(saved))
    outputs = []
    for folder in ("peft", "adapter"):
        base = AutoModelForCausalLM.from_pretrained(base_path)
        with torch.no_grad():
            outputs.append(PeftModel.from_pretrained(base, tmp_path / folder)(IDS).logits)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "modules_to_save"),
        ({"bias": "all"}, "bias='all'"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
        ({"r": 8}, "it was made for another base model"),
        ({"alpha_pattern": {"layers\\.[0-9]+": 4}}, "is a regular expression"),
        ({"rank_pattern": ["q_proj"]}, "is not understood"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "is not understood"),
        ({"lora_alpha": 10**400}, "is not understood"),
        ({"r": float("inf")}, "is not understood"),
    ],
)
def test_what_cannot_be_applied_exactly_is_refused_by_name(
    files: dict[str, bytes], convert: Convert, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TransferFailed, match=message):
        convert(tarred(configured(files, **options)))


def test_nothing_is_written_outside_and_only_two_files_are(
    files: dict[str, bytes], convert: Convert, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    strange = {"../../escaped": b"x", "/tmp/escaped": b"x", "..\\escaped": b"x"}
    convert(tarred({**strange, f"../../../{CONFIG}": files[CONFIG], WEIGHTS: files[WEIGHTS]}))
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {
        "upload",
        "unpacked",
        "adapter",
    }
    assert not (tmp_path.parent / CONFIG).exists()


def test_links_and_sparse_files_are_no_adapter(files: dict[str, bytes], convert: Convert) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo(WEIGHTS)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        entry = tarfile.TarInfo(CONFIG)
        entry.size = len(files[CONFIG])
        tar.addfile(entry, io.BytesIO(files[CONFIG]))
    with pytest.raises(TransferFailed, match=f"lacks {WEIGHTS}"):
        convert(buffer.getvalue())


def test_archives_that_are_something_else(
    files: dict[str, bytes], convert: Convert, tmp_path: Path
) -> None:
    def refused(archive: bytes, message: str) -> None:
        with pytest.raises(TransferFailed, match=message):
            convert(archive)
        shutil.rmtree(tmp_path / "unpacked")

    refused(b"no archive", "no tar or zip")
    refused(tarred(files)[:-200], "no tar or zip")
    refused(tarred({CONFIG: files[CONFIG], "adapter_model.bin": b"x"}), "a pickle, which is never")
    refused(tarred({**files, f"again/{CONFIG}": files[CONFIG]}), "twice")
    refused(zipped({CONFIG: b" " * (2 << 20), WEIGHTS: files[WEIGHTS]}), "2097152 bytes")
    refused(tarred({str(n): b"" for n in range(1002)}), "more than 1000 entries")
    refused(tarred({CONFIG: b"[" * 100_000, WEIGHTS: files[WEIGHTS]}), "cannot be read")


@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_a_damaged_zip_is_told_of(
    files: dict[str, bytes], tmp_path: Path, compression: int
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    assert_told_of_damage(buffer.getvalue(), tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_damaged_tar_is_told_of(files: dict[str, bytes], tmp_path: Path, mode: Any) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert_told_of_damage(buffer.getvalue(), tmp_path)


def assert_told_of_damage(archive: bytes, tmp_path: Path) -> None:
    """Whatever a reader of archives raises, nothing but TransferFailed comes out."""
    dice = random.Random(0)
    told = 0
    for number in range(100):
        damaged = bytearray(archive)
        for _ in range(3):
            # At both ends are what says how the rest is to be read.
            place = dice.choice((dice.randrange(700), -1 - dice.randrange(300)))
            damaged[place] = dice.randrange(256)
        upload, folder = tmp_path / "damaged", tmp_path / f"out-{number}"
        upload.write_bytes(damaged)
        folder.mkdir()
        try:
            adapter_upload._unpack(upload, folder, {CONFIG: 1 << 20, WEIGHTS: 1 << 20})
        except TransferFailed:
            told += 1
    assert told


def test_a_disk_s_own_errors_are_no_damage(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(tarred(files))
    with pytest.raises(FileNotFoundError):
        adapter_upload._unpack(
            tmp_path / "upload", tmp_path / "gone", {CONFIG: 1 << 20, WEIGHTS: 1 << 20}
        )


def test_what_is_packed_small_may_not_become_larger_than_any_adapter_of_the_base(
    files: dict[str, bytes], convert: Convert, base_path: Path
) -> None:
    limit = adapter_upload.max_file_bytes(base_config(base_path))[WEIGHTS]
    assert limit < 32 << 20
    with pytest.raises(TransferFailed, match=f"it may have {limit}"):
        convert(zipped({**files, WEIGHTS: files[WEIGHTS] + bytes(limit)}))


@pytest.mark.parametrize(
    ("entry", "content", "message"),
    [
        ({"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}, bytes(8), "not finite numbers"),
        (
            {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]},
            bytes(4),
            "lacks one of lora_A",
        ),
    ],
)
def test_tensors_that_no_adapter_has_are_refused(
    files: dict[str, bytes], convert: Convert, entry: Any, content: bytes, message: str
) -> None:
    header = json.dumps({lora.peft_name("model.layers.0.mlp.up_proj", "A"): entry}).encode()
    weights = len(header).to_bytes(8, "little") + header + content
    with pytest.raises(TransferFailed, match=message):
        convert(tarred({**files, WEIGHTS: weights}))


def test_what_is_told_quotes_no_more_of_a_stranger_s_file_than_a_row_can_keep(
    files: dict[str, bytes],
    base_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfers_main, "ensure_imported", lambda *_: base_path)
    monkeypatch.setattr(leash, "exit_with_parent", lambda: None)
    name = "layer\0" * 100_000
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "upload").write_bytes(tarred({**files, WEIGHTS: weights}))
    request = {
        "kind": "import",
        "base": {"id": "tiny-random", "source": "tiny-random", "revision": ""},
        "bases_dir": str(tmp_path),
        "upload": str(tmp_path / "upload"),
        "folder": str(tmp_path / "adapter"),
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    assert transfers_main.main(str(tmp_path / "request.json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert f"{WEIGHTS} holds layer\\0layer" in told["failed"]
    assert told["failed"].endswith("…")
    assert len(told["failed"]) < 2 * transfers_main.MAX_TOLD_CHARS
    assert "\0" not in told["failed"]
