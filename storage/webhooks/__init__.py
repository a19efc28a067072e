"""Webhooks: endpoints, deliveries that are due, and whose is made next.

Imports the files of `storage` beside it. Begin with `webhooks`.
"""
