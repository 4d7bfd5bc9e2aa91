"""Lets mkdocstrings show docstring examples as code, wherever in a docstring they stand.

The docstrings write `Example:` with bare `>>>` lines, as doctest wants them. Griffe knows only
`Examples:` as a section, and Markdown takes a bare `>>>` for a quotation inside a quotation. So
each run of lines from `>>>` to the next blank line is put into a fence, and the section is renamed.

A flax module gets its constructor from its fields, which Griffe does not see: the `Args:` of such
a class are shown as what they are, its attributes.

Signatures give the type of what comes back. Griffe takes whatever stands before a colon in the
first line of `Returns:` for one; written as an entity, the colon stays a colon.
"""

import re

import griffe

ARGUMENTS = re.compile(r"(?m)^Args:[ \t]*$")
SECTION = re.compile(r"(?m)^Example:[ \t]*$")
BLOCK = re.compile(r"(?m)^(?P<indent>[ \t]*)>>>.*(?:\n[ \t]*\S.*)*")
RETURNS = re.compile(r"(?m)^(?P<head>Returns:[ \t]*\n)(?P<line>.*)$")
COLON = re.compile(r"(?P<code>`[^`]*`)|:")
FENCED = re.compile(r"(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$")


def fence(text: str) -> str:
    """Return `text` with its bare doctest blocks fenced; blocks in a fence already stay."""

    def wrap(block: re.Match) -> str:
        indent = block["indent"]
        return f"{indent}```pycon\n{block[0]}\n{indent}```"

    pieces, end = [], 0
    for kept in FENCED.finditer(text):
        pieces += [BLOCK.sub(wrap, text[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*pieces, BLOCK.sub(wrap, text[end:])])


def without_types(text: str) -> str:
    """Return `text` with the colons of the first line of `Returns:` as entities."""

    def replace(found: re.Match) -> str:
        line = COLON.sub(lambda colon: colon["code"] or "&#58;", found["line"])
        return found["head"] + line

    return RETURNS.sub(replace, text)


class DocstringExamples(griffe.Extension):
    """Rewrites each docstring as it is collected."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Fence the examples in the docstring of `obj`, and leave types to its signature."""
        if obj.docstring:
            text = SECTION.sub("Examples:", obj.docstring.value)
            obj.docstring.value = fence(without_types(text))

    def on_class_members(self, *, cls: griffe.Class, **_: object) -> None:
        """Call the arguments of a class without a constructor its attributes."""
        if cls.docstring and "__init__" not in cls.members:
            cls.docstring.value = ARGUMENTS.sub("Attributes:", cls.docstring.value)
