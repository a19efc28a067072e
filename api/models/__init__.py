"""/v1/models, and the weights of a tuned model.

Begin with `models`.
"""
