"""Read a pickle as plain data. Nothing is imported, called or executed, whatever the file asks for.

Python's unpickler calls what a file names. This reader builds only numbers, strings, bytes, lists, tuples, sets of
strings, dicts with string keys, and records that say which class the file named and what it was given. A name outside
the caller's list ends the reading, and so does an opcode that no file of ours needs.
"""

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, BinaryIO

# A StyleGAN2 file with three networks of 1024 pixels takes about 50,000 of either.
MAX_OPCODES = 1_000_000
MAX_VALUES = 1_000_000
MAX_DEPTH = 100
MAX_PROTOCOL = 5
MAX_LITERAL = 2**25  # bytes; the largest layer of a released network has 17 MB
MAX_LINE = 2**12  # characters of an argument that ends with its line
MAX_TEXT = 2**24  # bytes of all strings together; a file's source code has 0.1 MB

LITERALS = {
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict"}  # subclasses of dict, read as a dict
SETS = {"builtins.set"}  # how protocol 3 writes a set


class Refused(ValueError):
    """The file is damaged, asks for something that is not allowed, or holds something else than expected."""


@dataclass(frozen=True)
class Name:
    """A class or function that the file names; only its name."""

    text: str


@dataclass(eq=False)
class Record:
    """An object that the file would have made: what it named, the arguments, and the state for the result."""

    name: str
    args: tuple
    state: Any = None


def read_plain(stream: BinaryIO, allowed: Collection[str], *, persistent_ids: bool = False) -> Any:
    """Read one pickle, and leave `stream` after it.

    Args:
        stream: a binary file or BytesIO, and shorter than memory (bytes in the result are copies).
        allowed: dotted names that may occur, such as "collections.OrderedDict".
        persistent_ids: True reads a persistent id as Record("persistent id", (id,)); False refuses it.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, set, dict, Name and Record, nested at most MAX_DEPTH deep and
        of at most MAX_VALUES values, counting shared ones each time they occur.

    Raises:
        Refused: a name that is not allowed, an opcode that is not read, a truncated or damaged stream, a literal of
            more than MAX_LITERAL bytes, or a bomb.
    """
    machine = _Machine(frozenset(allowed), persistent_ids)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(_Capped(stream))):
            if number >= MAX_OPCODES:
                raise Refused(f"it has more than {MAX_OPCODES} opcodes; a genuine file has about 50,000")
            machine.step(opcode.name, argument)
    except Refused:
        raise
    except (AssertionError, IndexError, KeyError, OverflowError, ValueError) as error:
        raise Refused(f"its pickle is truncated or damaged: {type(error).__name__}: {str(error)[:200]}") from error
    value = machine.result()
    _check_size(value)
    return value


class _Capped:
    """A stream of which no more is read at once than a genuine file needs, whatever length a literal claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.tell = stream, stream.tell

    def read(self, n: int) -> bytes:
        if n > MAX_LITERAL:
            raise Refused(f"it has a literal of {n} bytes; a genuine file has at most {MAX_LITERAL}")
        return self._stream.read(n)

    def readline(self) -> bytes:
        line = self._stream.readline(MAX_LINE)
        if len(line) == MAX_LINE:
            raise Refused(f"it has an argument of a line longer than {MAX_LINE} bytes")
        return line


class _Machine:
    """The pickle machine with a stack, a memo and the marks, restricted to building plain data."""

    def __init__(self, allowed: frozenset[str], persistent_ids: bool) -> None:
        self._allowed, self._persistent_ids = allowed, persistent_ids
        self._stack: list = []
        self._below: list[list] = []  # the stacks under each open mark
        self._memo: dict[int, Any] = {}
        self._n_text = 0

    def result(self) -> Any:
        if self._below or len(self._stack) != 1:
            raise Refused("its pickle is damaged: it must leave one value on the stack")
        return self._stack[0]

    def step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO":
                if argument > MAX_PROTOCOL:
                    raise Refused(f"pickle protocol must be at most {MAX_PROTOCOL}, got {argument}")
            case "FRAME" | "STOP":
                pass
            case _ if opcode in LITERALS:
                self._n_text += 4 * len(argument) if type(argument) is str else 0  # Python's widest character
                if self._n_text > 4 * MAX_TEXT:
                    raise Refused(f"its strings have more than {MAX_TEXT} characters together")
                stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(opcode, argument))
            case _ if opcode in EMPTY:
                stack.append(EMPTY[opcode]())
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode[-1])
                stack[-n:] = [tuple(self._last(n))]
            case "TUPLE":
                self._push(tuple(self._since_mark()))
            case "APPEND":
                self._extend(list, [stack.pop()])
            case "APPENDS":
                self._extend(list, self._since_mark())
            case "ADDITEMS":
                self._extend(set, self._since_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._extend(dict, [key, value])
            case "SETITEMS":
                self._extend(dict, self._since_mark())
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                self._push_name(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str:
                    raise Refused("its pickle is damaged: the name of a class must be a string")
                self._push_name(f"{module}.{name}")
            case "REDUCE" | "NEWOBJ":
                args, made = stack.pop(), stack.pop()
                stack.append(_made(made, args))
            case "BUILD":
                state = stack.pop()
                self._build(stack[-1], state)
            case "BINPERSID" if self._persistent_ids:
                stack.append(Record("persistent id", (stack.pop(),)))
            case _:
                raise Refused(f"it uses pickle opcode {opcode}, which genuine files do not")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _last(self, n: int) -> list:
        if len(self._stack) < n:
            raise IndexError("stack is too short")
        return self._stack[-n:]

    def _since_mark(self) -> list:
        """Everything pushed since the last mark, which goes away with it."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, kind: type, items: list) -> None:
        container = self._stack[-1]
        if type(container) is not kind:
            raise Refused(f"its pickle is damaged: items go into a {kind.__name__}, got {type(container).__name__}")
        if kind is list:
            container.extend(items)
            return
        keys = items[::2] if kind is dict else items
        # Only strings: hashing nested tuples or chosen numbers can take for ever.
        if any(type(key) is not str for key in keys):
            raise Refused("keys of dicts and items of sets must be strings")
        if kind is set:
            container.update(items)
        else:
            container.update(zip(keys, items[1::2], strict=True))

    def _push_name(self, text: str) -> None:
        if text not in self._allowed:
            raise Refused(f"it names {text[:100]!r}, which is not on the list of what a genuine file names")
        self._stack.append(Name(text))

    @staticmethod
    def _build(made: Any, state: Any) -> None:
        if type(made) is not Record or made.state is not None:
            raise Refused(f"it sets the state of a {type(made).__name__}, which genuine files do not")
        made.state = state


def _made(made: Any, args: Any) -> Any:
    """What stands for `made(*args)`."""
    if type(made) is not Name:
        raise Refused(f"it calls a {type(made).__name__}; genuine files call only what they name")
    if type(args) is not tuple:
        raise Refused(f"arguments of {made.text} must be a tuple, got {type(args).__name__}")
    if made.text in DICTS:
        if args:
            raise Refused(f"{made.text} must be made without arguments, got {len(args)}")
        return {}
    if made.text in SETS:
        if len(args) != 1 or type(args[0]) is not list or any(type(item) is not str for item in args[0]):
            raise Refused(f"{made.text} must be made from one list of strings")
        return set(args[0])
    return Record(made.text, args)


def _check_size(value: Any) -> None:
    """Refuse data that unfolds without end: a few hundred opcodes can share a list a billion times."""
    pending, n_values = [(value, 0)], 0
    while pending:
        value, depth = pending.pop()
        n_values += 1
        if n_values > MAX_VALUES:
            raise Refused(f"it is a bomb: it unfolds to more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise Refused(f"it is a bomb: it nests deeper than {MAX_DEPTH} levels")
        if type(value) is dict:
            inside = list(value.values())
        elif type(value) in (list, tuple):
            inside = value
        elif type(value) is Record:
            inside = (value.args, value.state)
        else:
            continue
        if len(inside) + len(pending) > MAX_VALUES:
            raise Refused(f"it is a bomb: it unfolds to more than {MAX_VALUES} values")
        pending.extend((item, depth + 1) for item in inside)
