"""What every process needs, and no word of the domain: errors in OpenAI's shape, settings, logs, JSON Lines, outbound
HTTP, connections that nobody can hold for nothing, the leash that ends a child with its parent.

Imports nothing of the house. Begin with `errors`; `settings` lists all that a process can be told.
"""
