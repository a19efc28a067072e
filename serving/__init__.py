"""Adapters in, tokens out: an OpenAI-compatible inference server for one base under many adapters.

Imports `modeling`, `storage.blobs` and what is below them; no database. Begin with `app`, the HTTP face; `served_base`
puts text and engine together.
"""
