"""YAML from strangers: read by the safe loader, within limits, with the place of every mistake.

Nothing in a file is ever constructed but mappings, lists, scalars and, since FuxiCTR's field lists are written so,
``!!python/tuple`` of these. Refused besides broken YAML: any other tag of Python's, keys written twice, numbers to the
base 8 or 60 that look like others (064, 1:30), files that are too large, nested too deep or referring to themselves,
and aliases that would unfold into more than :data:`MAX_NODES` values.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from qin_zoo.errors import ConfigError

try:
    from yaml.cyaml import CParser as _Events  # five times as fast; a tuner's results are tens of thousands of lines
except ImportError:  # PyYAML without libyaml

    class _Events(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
        def __init__(self, text: str):
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


MAX_BYTES = 5_000_000
MAX_DEPTH = 32
MAX_NODES = 300_000

_PYTHON_TAG = "tag:yaml.org,2002:python/"
TUPLE_TAG = f"{_PYTHON_TAG}tuple"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """What a YAML file says, and where.

    Attributes:
        data: mappings, lists, tuples and scalars; None for an empty file.
        lines: of each mapping at the top level, the line (from 1) of each of its keys; ``""`` stands for the
            line of the mapping's own key.
    """

    data: object
    lines: dict[object, dict[object, int]] = field(default_factory=dict)


def read_yaml(path: Path) -> Document:
    """Reads a YAML file of at most :data:`MAX_BYTES`.

    Raises:
        ConfigError: it cannot be opened, is no regular file, or is refused by :func:`parse_yaml`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening, which waits forever on a named pipe
            raise ConfigError(f"{path} is not a regular file; a configuration must be a YAML file.")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Could not read {path}: {error.strerror or error}.") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES:,} bytes; no configuration is. Is it a data file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text. Save the file with the encoding UTF-8.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Document:
    """Parses a YAML document, which messages call as ``where`` says, its file for instance.

    Raises:
        ConfigError: the text is not YAML, or holds what the module's docstring says is refused.
    """
    try:
        loader = _Loader(text, where)
        try:
            root = loader.get_single_node()
            if root is None:
                return Document(None)
            lines = _lines(root)
            return Document(loader.construct_document(root), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # the end of the text is no line of its own
        place = f"{where}, line {min(mark.line, text.rstrip().count(chr(10))) + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets a few of Python's own errors through, for instance for the escape "\UFFFFFFFF"
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}.") from error


class _Loader(Composer, _Events, SafeConstructor, Resolver):
    """PyYAML's safe loader that stops at the limits and blames a line for every bad scalar.

    Nodes are composed here, event by event, so that nothing is parsed beyond the limits, and each is inspected before
    anything is constructed from it; aliases make a graph of them.
    """

    def __init__(self, text: str, where: str):
        _Events.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._where, self._depth, self._nodes = where, 0, 0
        self._measured: dict[int, tuple[int, int]] = {}  # node -> (values it unfolds into, levels)

    def compose_node(self, parent, index):
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            much = f"nested deeper than {MAX_DEPTH} levels" if self._depth > MAX_DEPTH else f"over {MAX_NODES:,} values"
            raise yaml.composer.ComposerError(None, None, much, self.peek_event().start_mark)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if id(node) not in self._measured:
            if is_alias:
                self._refuse(node, "this value contains itself through an alias (*name). Write it out instead.")
            self._measured[id(node)] = self._measure(node)
        self._depth -= 1
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if node.tag.startswith(_PYTHON_TAG) and node.tag != TUPLE_TAG:
            tag = node.tag.replace(_PYTHON_TAG, "!!python/")
            self._refuse(node, f"the tag {tag} is refused, since such tags can run code. Remove the tag.")
        if isinstance(node, yaml.ScalarNode):  # most are
            if node.tag in _NUMBER_TAGS and re.match(r"[-+]?0[0-7_]+$|.*:", node.value):
                meant = self.construct_object(node)
                self._refuse(node, f"YAML reads {node.value} as {meant}. Write that, or what you mean; text in quotes.")
            return 1, 1
        children = node.value
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            children = [child for pair in node.value for child in pair]
        measures = [self._measured[id(child)] for child in children]
        size, levels = 1 + sum(size for size, _ in measures), max((levels for _, levels in measures), default=0)
        if size > MAX_NODES or levels >= MAX_DEPTH:
            self._refuse(
                node,
                f"with its aliases (*name) written out this holds more than {MAX_NODES:,} values or {MAX_DEPTH} "
                "levels; no configuration needs that.",
            )
        return size, levels + 1

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, "a key must be text, not a list or a mapping.")
            if key.tag == _MERGE_TAG:
                continue
            name = (key.tag, key.value)
            if name in seen:
                self._refuse(key, f"the key '{key.value}' stands on line {seen[name]} already. Keep one of the two.")
            seen[name] = key.start_mark.line + 1

    def _refuse(self, node: yaml.Node, problem: str):
        raise ConfigError(f"{self._where}, line {node.start_mark.line + 1}: {problem}")

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # of many kinds: int("0x_"), date(2024, 13, 1), an int of 5000 digits, …
            kind = node.tag.rsplit(":", 1)[-1]
            problem = f"this cannot be read as {kind} ({error}); put it in quotes if it is meant as text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        # such text can be neither a file name nor be printed or logged
        if isinstance(value, str) and _UNPRINTABLE.search(value):
            problem = "text with a NUL character or half a surrogate pair"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def construct_tuple(self, node):
        return tuple(self.construct_sequence(node, deep=True))


_Loader.add_constructor(TUPLE_TAG, _Loader.construct_tuple)


def _lines(root: yaml.Node) -> dict[object, dict[object, int]]:
    """Lines of the keys of the top level's mappings; before construction, which unfolds ``<<`` in place."""
    lines: dict[object, dict[object, int]] = {}
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            own = lines.setdefault(key.value, {}) if isinstance(key, yaml.ScalarNode) else {}
            own[""] = key.start_mark.line + 1
            if isinstance(value, yaml.MappingNode):
                own.update((k.value, k.start_mark.line + 1) for k, _ in value.value if isinstance(k, yaml.ScalarNode))
    return lines
