"""Transfers: exports of tuned models, and imports of adapters. What knows a model is a process of its own, `modeling.transfers`.

Imports what `errands` may. Begin with `run`, one attempt at a transfer.
"""
