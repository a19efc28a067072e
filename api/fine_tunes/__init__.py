"""/v1/fine-tunes: the API of before there was /v1/fine_tuning, on the same rows.

Begin with `fine_tunes`.
"""
