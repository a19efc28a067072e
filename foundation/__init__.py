"""What every process needs: errors in OpenAI's shape, settings, logs, JSON Lines, outbound HTTP, connections that nobody
can hold for nothing, the leash that ends a child with its parent.

Imports nothing of the house, and knows no word of the domain but those in the names of errors and settings. Begin with `errors`; `settings` lists all that a process can be told.
"""
