"""Finds where the turns of a conversation begin in one rendering of it, where a template allows that.

The prompt of a turn is the template's rendering of the messages before it. Rendering each prefix anew is
quadratic. But most templates only ever look back: one loop over the messages, and behind it text that is
always the same. What such a template has written when its loop comes to a message is what it would have
written had the conversation ended there, for it does not know yet that it goes on. Whether a template is
of this kind is read off its syntax tree, with a short list of what it may do with the messages; templates
that do anything else are not marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jinja2
from jinja2 import nodes

MARK = "luthier_turn_mark"
"""The variable whose value is written where the loop comes to a message, and where it ends."""

# What a loop knows of itself without knowing what comes.
PAST = frozenset({"first", "index", "index0", "previtem", "depth", "depth0", "cycle", "changed"})
# Other ways to reach text, or the template itself.
STRANGE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)


@dataclass(frozen=True, slots=True)
class MarkedTemplate:
    """`whole` writes the value of the variable `MARK` before each message and behind the last; `ending` is
    what comes then, which no message changes."""

    whole: jinja2.Template
    ending: jinja2.Template


def mark_turns(environment: jinja2.Environment, source: str) -> MarkedTemplate | None:
    """The template with its marks, or None if it is not proven to look back only.

    Raises `jinja2.TemplateSyntaxError`.
    """
    tree = environment.parse(source)
    position = _loop_position(tree)
    if position is None:
        return None
    loop, ending = tree.body[position], tree.body[position + 1 :]
    assert isinstance(loop, nodes.For)
    if not (_looks_back(tree, loop) and _is_constant(ending, tree)):
        return None
    if any(
        _is_name(n, "add_generation_prompt")
        for part in tree.body[: position + 1]
        for n in _walk(part)
    ):
        return None
    loop.body.insert(0, _mark())
    tree.body.insert(position + 1, _mark())
    return MarkedTemplate(
        _compile(environment, tree), _compile(environment, nodes.Template(ending, lineno=1))
    )


def _loop_position(tree: nodes.Template) -> int | None:
    """Where the loop over the messages stands in the template's outermost level."""
    found = [
        position
        for position, node in enumerate(tree.body)
        if isinstance(node, nodes.For) and _is_name(node.iter, "messages")
    ]
    if len(found) != 1:
        return None
    loop = tree.body[found[0]]
    assert isinstance(loop, nodes.For)
    is_plain = isinstance(loop.target, nodes.Name) and not (
        loop.test or loop.recursive or loop.else_ or "messages" in _stored_names(tree)
    )
    return found[0] if is_plain else None


def _looks_back(tree: nodes.Template, loop: nodes.For) -> bool:
    """Whether nothing is asked of the messages but the first one and, in `loop`, those up to now."""
    if any(tree.find_all(STRANGE)):
        return False
    others = [node for node in tree.find_all(nodes.For) if node is not loop]
    own_loops = {id(n) for other in others for part in other.body for n in _walk(part)}
    is_allowed: set[int] = {id(loop.iter)}
    for node in _walk(tree):
        if isinstance(node, nodes.Getitem) and _is_name(node.node, "messages"):
            is_first = isinstance(node.arg, nodes.Const) and node.arg.value == 0
            is_allowed |= {id(node.node)} if is_first else set()
        elif isinstance(node, nodes.Getattr) and _is_name(node.node, "loop"):
            is_past = node.attr in PAST or id(node) in own_loops
            is_allowed |= {id(node.node)} if is_past else set()
    return all(
        id(node) in is_allowed
        for node in _walk(tree)
        if _is_name(node, "messages") or _is_name(node, "loop")
    )


def _is_constant(ending: list[nodes.Node], tree: nodes.Template) -> bool:
    """Whether the nodes depend on nothing that the template sets, nor on messages."""
    varying = _stored_names(tree) | {"messages", "loop"}
    return not any(
        isinstance(node, nodes.NSRef | nodes.Macro | nodes.CallBlock | nodes.For)
        or (isinstance(node, nodes.Name) and node.name in varying)
        for part in ending
        for node in _walk(part)
    )


def _stored_names(tree: nodes.Template) -> set[str]:
    names = {n.name for n in _walk(tree) if isinstance(n, nodes.Name) and n.ctx != "load"}
    return names | {n.name for n in _walk(tree) if isinstance(n, nodes.Macro | nodes.NSRef)}


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _is_name(node: nodes.Node | None, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


def _mark() -> nodes.Output:
    return nodes.Output([nodes.Name(MARK, "load", lineno=1)], lineno=1)


def _compile(environment: jinja2.Environment, tree: nodes.Template) -> jinja2.Template:
    tree.set_environment(environment)
    code = environment.compile(tree)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))
