"""POST /v1/completions: the request's body, and the reply made of what the engine generates.

Begin with `request`.
"""
