"""When a server looks for garbage."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """To be called once everything is loaded. What is loaded stays, and looking it through holds everybody up
    for some tenths of a second; requests leave few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
