"""Keys and values of what has been computed, and who may reuse them.

Imports torch. Begin with `cache`; `pool` is the memory below it.
"""
