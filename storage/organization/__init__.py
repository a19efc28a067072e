"""Tenants: projects, keys, service accounts, and what they used.

Imports the files of `storage` beside it. Begin with `projects`: every other row belongs to one.
"""
