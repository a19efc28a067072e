"""/v1/chat/completions and /v1/completions: a name becomes a base and an adapter, a request goes to an inference server, its
reply back to the client, its tokens into the meter.

Begin with `inference`.
"""
