"""Adapters in, tokens out: an OpenAI-compatible inference server for one base under many adapters.

Imports `modeling`, `storage.blobs` and what is below them; no database. Begin with `app`, the HTTP face; `served_base`
puts text, engine and adapters together; `engine_thread` drives `engine`, a library that knows nothing of the rest.
"""
