"""A grader and a model's answer in, a reward out. No web framework, no database, no models.

`graders` are the wire types, `grade` runs one; what a grader's text may say is in `template` and `formula`.
Code of users runs in `sandbox` only.
"""
