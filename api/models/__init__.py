"""/v1/models, the weights of a tuned model, exports and imports.

Begin with `models`.
"""
