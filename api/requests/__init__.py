"""What the resources share of reading a request: bodies and their limits, validation, fields with one meaning everywhere.

Imports `api.wiring` and `api.auth`, no resource. Begin with `bodies`.
"""
