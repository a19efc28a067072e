"""A report as one page of HTML that opens anywhere: drawn from report.json, with its pictures inside, and nothing to fetch.

Begin with `page`; `pictures` draws.
"""
