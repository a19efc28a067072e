"""/v1/luthier: what this service has beyond OpenAI's API. An unmodified client never needs it.

Begin with `aliases`.
"""
