"""What a job changes of a base: `trainable` says what training needs to know of it, and each kind is a file of its own. How each is
kept on disk is in modeling/artifacts. Begin with `trainable`.
"""
