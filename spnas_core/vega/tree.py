"""A pipeline file of Vega as a tree of values with their lines."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from spnas_core.errors import UserError

_MOST = 10_000  # values of a file


class Leaf(NamedTuple):
    """One value of the file: its line, its dotted key and itself."""

    line: int
    key: str
    value: Any


Tree = dict[str, Any]  # of leaves, by the keys of the file


def parse_tree(text: str, name: str) -> tuple[list[Leaf], Tree]:
    """Values of the file with their lines, in their order and as a tree."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{name}: expected a YAML mapping of a pipeline and its stages, got something else")
        leaves: list[Leaf] = []
        tree: Tree = {}
        for leaf, place, key in _walk(loader, node, "", tree):
            leaves.append(leaf)
            place[key] = leaf
            if len(leaves) > _MOST:
                raise UserError(f"{name}: expected at most {_MOST:,} values, got more")
        loader.construct_document(node)
        return leaves, tree
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: expected YAML, got: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _walk(loader: yaml.SafeLoader, node: yaml.MappingNode, above: str, place: Tree) -> Iterator[tuple[Leaf, Tree, str]]:
    """Give each value below `node`, with the part of the tree, and the key in it, that it belongs to."""
    own = {id(key) for key, _ in node.value}
    loader.flatten_mapping(node)  # takes what a key << names
    names = {str(key.value) for key, _ in node.value if id(key) in own}
    for key_node, value_node in [pair for pair in node.value if id(pair[0]) in own or str(pair[0].value) not in names]:
        last = str(key_node.value)
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            inner: Any = place.get(last)
            place[last] = inner if isinstance(inner, dict) else {}
            yield from _walk(loader, value_node, f"{above}{last}.", place[last])
        else:
            value = loader.construct_object(value_node, deep=True)
            yield Leaf(key_node.start_mark.line + 1, f"{above}{last}", value), place, last
