"""Reader of the pickle in a torch.save file as data, by a separate stack machine: nothing that it names is ever imported or called.

This module defines every opcode that torch.save uses, `torch_values` every name. No object has behaviour that a pickle could change, and
nothing recurses, so the cost of nesting and sharing is limited by the pickle's length.
Sources: CPython `pickletools.py` (the opcodes); torch `_weights_only_unpickler.py` (which of them are needed).
"""

import pickletools
import warnings
from typing import IO, Any

from spnas_core.weights import torch_values as values
from spnas_core.weights.torch_values import GlobalName, TensorStorage

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


def unpickle(stream: IO[bytes]) -> tuple[Any, dict[str, TensorStorage]]:
    """Read one pickle from `stream`, up to its STOP: plain values and `StoredTensor`s, and all storages by key.

    UserError for an unknown name, with that name. ValueError, IndexError, KeyError or TypeError for anything else that torch.save does
    not write.
    """
    machine = _Machine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of escapes that a text string may not have
        for opcode, argument, _ in pickletools.genops(stream):
            machine.do(opcode.name, argument)
    return machine.stack.pop(), machine.storages


class _Machine:
    """Stack, marks and memo of one pickle; ValueError, IndexError, KeyError or TypeError for an invalid pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, TensorStorage] = {}

    def do(self, name: str, argument: Any) -> None:
        """Execute one opcode."""
        push, pop = self.stack.append, self.stack.pop
        if name in _LITERALS or name in _CONSTANTS:
            push(_CONSTANTS.get(name, argument))
            return
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._last(int(name[-1]) if name[-1].isdecimal() else 0)))
            case "TUPLE":
                push(tuple(self._marked()))
            case "EMPTY_LIST":
                push([])
            case "LIST":
                push(self._marked())
            case "EMPTY_DICT":
                push({})
            case "DICT":
                push(values.put({}, self._marked()))
            case "APPEND" | "APPENDS":
                items = self._last(1) if name == "APPEND" else self._marked()
                _kind(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if name == "SETITEM" else self._marked()
                values.put(_kind(self.stack[-1], dict), items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(values.known(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                push(values.known(".".join(_kind(part, str) for part in self._last(2))))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._last(2)
                push(values.called(_kind(function, GlobalName).text, _kind(arguments, tuple)))
            case "INST":
                push(values.called(values.known(argument.replace(" ", ".", 1)).text, tuple(self._marked())))
            case "BUILD":  # attributes, such as the versions that a state_dict carries: nothing here has any
                pop()
            case "BINPERSID":
                push(self._storage(pop()))
            case _:
                raise ValueError(f"the opcode {name}, which torch.save does not write")

    def _last(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _storage(self, identity: Any) -> TensorStorage:
        storage = values.storage_of(identity)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"two storages of the key {storage.key!r}")
        return storage


def _kind(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value
