"""Forms of a training file's rows: what may stand in one, OpenAI's words for what is wrong with it, and its tokens.

A file each, listed by method in `first_row`. Imports `text`. Begin with `row_format`, which says what a form is.
"""
