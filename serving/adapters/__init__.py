"""Adapters on their way to a slot: blob store -> disk -> RAM -> slot, each place with a budget in bytes.

Prefixes take the same way to RAM, and models that are bases of their own the way to the disk. Begin with `cache`, which
loads what is asked for; `disk` is the place below it, `files` an artifact's files and what they must be. What lies in slots is
the engine's (`serving.engine.slots`).
"""
