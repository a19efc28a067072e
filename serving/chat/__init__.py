"""POST /v1/chat/completions: the request's body, and the reply made of what the engine generates.

Begin with `request`.
"""
