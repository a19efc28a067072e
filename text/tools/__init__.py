"""Tools in and out: in which form a base shows calls, and what a generated text calls.

Begin with `formats` for what forms there are, with `reply` for how a text is read, and with `own_form` for bases
whose chat template knows no tools.
"""
