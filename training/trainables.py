"""What a job changes of its base, put onto it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from modeling.artifacts import output_layers
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.merge import Merge
from modeling.trainable.full import FullTrainable
from modeling.trainable.head import ClassifierTrainable
from modeling.trainable.lora import LoraTrainable
from modeling.trainable.merged import MergedTrainable
from modeling.trainable.output_layers import OutputLayersTrainable
from modeling.trainable.prefix import PrefixTrainable
from modeling.trainable.trainable import Trainable

from .messages import Classifier, Full, Lora, OutputLayers, Prefix, TrainConfig


def attached(
    model: PreTrainedModel, config: TrainConfig, scratch: Path | None, merged: Artifact | None
) -> Trainable:
    """Put what is to be trained onto the base, or onto what a tuned model makes of it.

    `scratch` is a folder for what is quicker read than computed again. Raises ArtifactError for a model that cannot be
    merged.
    """
    if merged is None:
        return _plain(model, config, scratch)
    trained: Collection[str] = ()
    match config.trainable:
        case Full():
            is_tied = bool(model.config.tie_word_embeddings)
            return FullTrainable(model, Merge(merged, base_is_tied=is_tied))
        case OutputLayers() as layers:
            trained = output_layers.trained_shapes(
                model.config, num_blocks=layers.num_blocks, train_head=layers.train_head
            )
        case Prefix() | Classifier() as other:
            raise ArtifactError(f"no model holds a {other.kind} and weights of its own")
    attach = partial(_plain, model, config, scratch)
    return MergedTrainable(model, merged, attach, trained=trained, seed=config.seed)


def _plain(
    model: PreTrainedModel, config: TrainConfig, scratch: Path | None, merge: Merge | None = None
) -> Trainable:
    """What are copies of weights begin as `merge` makes them."""
    match config.trainable:
        case Lora() as lora:
            return _lora(model, lora, config.seed)
        case Classifier() as classifier:
            adapter = _lora(model, classifier, config.seed)
            return ClassifierTrainable(adapter, classifier.labels, model, config.seed)
        case Prefix(num_virtual_tokens=number):
            return PrefixTrainable(model, num_virtual_tokens=number, seed=config.seed)
        case Full():
            return FullTrainable(model)
        case OutputLayers() as layers:
            return OutputLayersTrainable(
                model,
                num_blocks=layers.num_blocks,
                train_head=layers.train_head,
                scratch=scratch,
                merge=merge,
            )
        case other:
            raise ValueError(f"this version trains nothing of the kind '{other.kind}'")


def _lora(model: PreTrainedModel, wanted: Lora | Classifier, seed: int) -> LoraTrainable:
    return LoraTrainable(
        model,
        rank=wanted.rank,
        alpha=wanted.alpha,
        target_modules=wanted.target_modules,
        use_rslora=wanted.use_rslora,
        seed=seed,
    )
