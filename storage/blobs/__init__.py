"""Blobs: bytes under a key, in a directory or in a bucket.

Imports `foundation`. Begin with `blobs`: the protocol, and the choice between the two.
"""
