"""/v1/responses and /v1/conversations: OpenAI's newer form of a chat. A request becomes a chat completion's, which the
gateway passes on like any other, and its chunks become the response's items and events; so both forms are one inference.

May import what the rest of the api may. Begin with `responses`.
"""
