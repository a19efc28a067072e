"""What each method measures on the whole validation file at the end of an epoch."""

from __future__ import annotations

DEFAULT_METRIC = "full_valid_loss"
"""What a job goes by that says nothing else; every method measures it."""
EPOCH_METRICS: dict[str, tuple[str, ...]] = {
    "supervised": ("full_valid_loss", "full_valid_mean_token_accuracy"),
    "unsupervised": (
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
        "full_valid_perplexity",
        "full_valid_bits_per_byte",
    ),
    "classification": (
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
        "full_valid_accuracy",
        "full_valid_weighted_f1",
    ),
    "dpo": ("full_valid_loss", "full_valid_accuracy", "full_valid_rewards/margins"),
}
"""What a job can be stopped by, and its best checkpoint chosen by."""


def is_lower_better(metric: str) -> bool:
    return metric.endswith(("loss", "perplexity", "bits_per_byte"))
