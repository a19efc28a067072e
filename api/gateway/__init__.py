"""/v1/chat/completions and /v1/completions: a name becomes a base and an adapter, a request goes to an inference server, its
reply back to the client, its tokens into the meter. Classifications and moderations go the same way.

Begin with `inference`; `exchange` is one request, `guard` one that its project has judged, `rate_limits` what a minute allows.
"""
