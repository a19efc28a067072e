"""Batches: an input file of requests, asked through the gateway, and an output file of answers.

Imports what `errands` may. Begin with `run`, one attempt at a batch.
"""
