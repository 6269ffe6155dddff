"""YAML to frozen, typed configuration, strictly: what is not understood is refused by name.

`read` turns a file or a mapping into a frozen dataclass. Every error is an `InputError` of one
sentence that names the file, the key path, and what would have been right. The traps of YAML 1.1
are closed: `1e-3`, a string there, is the number meant where a float is declared; `on`, `off`,
`yes` and `no` are booleans, `012` is octal and `3:30` base 60 there, and all of these are refused.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from sim2real.types import InputError, nearest

T = TypeVar("T")
Source = Mapping[str, Any] | str | os.PathLike[str]

# What a person means by a number with an exponent, and PyYAML reads as a string.
_EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+")


def read(cls: type[T], source: Source, where: str | None = None) -> T:
    """Read `source` as the frozen dataclass `cls`.

    Args:
        cls: a dataclass whose fields are bool, int, float, str, Path, Literal, Any, dataclasses,
            tuples, lists, mappings with string keys, and unions of these.
        source: the path of a YAML file, or a mapping.
        where: what messages call the source; by default the path, or the name of the class.

    Raises:
        InputError: the file is missing, empty or not YAML; a key is unknown, missing or double; a
            value has another type than declared, is not finite, or is refused by the class itself
            (a ValueError from its `__post_init__`).
    """
    if isinstance(source, Mapping):
        return _convert(cls, source, _Place(where or cls.__name__))
    place = _Place(where or os.fspath(source))
    content = _read_file(source, place)
    if content is None:
        raise place.error(f"is empty; it needs {_keys_of(cls)}")
    return _convert(cls, content, place)


def load(path: str | os.PathLike[str], where: str | None = None) -> dict[str, Any]:
    """The mapping that a YAML file holds, as plain data, with the traps above refused.

    Raises:
        InputError: the file is missing, empty, not YAML, or holds something else than a mapping.
    """
    place = _Place(where or os.fspath(path))
    content = _read_file(path, place)
    if content is None:
        raise place.error("is empty; expected keys with values")
    if not isinstance(content, dict):
        raise place.error(f"expected keys with values, got {_shown(content)}")
    return cast("dict[str, Any]", content)


def _read_file(path: str | os.PathLike[str], place: _Place) -> Any:
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [f.name for f in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise place.error(f"no such file{nearest(file.name, beside)}") from None
    except IsADirectoryError:
        raise place.error("is a folder, not a YAML file") from None
    except UnicodeDecodeError as error:
        raise place.error(f"is not text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise place.error(f"cannot be read ({error.strerror})") from None
    return _parse(text, place)


def apply_overrides(
    mapping: Mapping[str, Any], overrides: Iterable[str] | Mapping[str, Any] | None
) -> dict[str, Any]:
    """A copy of `mapping` with values replaced by key path; `mapping` itself stays as it is.

    Overrides are texts such as `"adapt.episodes=5"`, whose value is read as YAML, or a mapping
    `{"adapt.episodes": 5}`. Later ones win. Missing levels are made; a number addresses an entry of
    a list. Whether the result makes sense is for `read` to say.

    Raises:
        InputError: an override without `=`, a key path with an empty part, or one that leads into a
            value which is neither a mapping nor a list.
    """
    result = cast("dict[str, Any]", _copied(mapping))
    if isinstance(overrides, str):
        overrides = [overrides]
    pairs: Iterable[tuple[str, Any]]
    if overrides is None:
        pairs = []
    elif isinstance(overrides, Mapping):
        pairs = [(key, _copied(value)) for key, value in overrides.items()]
    else:
        pairs = [_parse_override(text) for text in overrides]
    for path, value in pairs:
        _override(result, path, value)
    return result


def to_dict(value: Any) -> Any:
    """Plain data: dataclasses as dicts, tuples as lists, paths as text, numpy scalars as numbers.

    Raises:
        TypeError, ValueError: a value of another kind, or a number that is not finite, which `read`
            would refuse.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init
        }
    if isinstance(value, Mapping):
        return {str(key): to_dict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(entry) for entry in cast("Sequence[Any]", value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, os.PathLike)):
        return str(cast("str | os.PathLike[str]", value))
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite and cannot be written as YAML")
        return float(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as YAML: {value!r}")


def dump(value: Any) -> str:
    """The YAML text of a dataclass or of plain data; `read` gives back what was written."""
    return yaml.dump(to_dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def write(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a dataclass or plain data as a YAML file, whole or not at all.

    The text goes to a temporary file in the same folder, which then takes the name: a reader sees
    the old file or the new one, never half of one, whenever this process is killed.
    """
    text, path = dump(value), Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# Places and messages


@dataclasses.dataclass(frozen=True)
class _Place:
    """A file and a path of keys in it, as messages name them."""

    source: str
    path: str = ""

    def __truediv__(self, key: str | int) -> _Place:
        if isinstance(key, int):
            return _Place(self.source, f"{self.path}[{key}]")
        return _Place(self.source, f"{self.path}.{key}" if self.path else key)

    def error(self, message: str) -> InputError:
        return InputError(f"{self.source}: {self.path + ': ' if self.path else ''}{message}")


def _keys_of(cls: Any) -> str:
    if not dataclasses.is_dataclass(cls):
        return "a value"
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    return f"the keys {', '.join(names)}" if names else "no keys"


def _shown(value: Any) -> str:
    """What was given, in the words of a person who writes YAML."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, int):
        return f"the whole number {value}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, Mapping):
        keys = [str(key) for key in cast("Mapping[Any, Any]", value)]
        return f"a mapping with the keys {', '.join(keys)}" if keys else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(cast('Sequence[Any]', value))}"
    return f"the {type(value).__name__} {value}; write it in quotes if it is text"


def _named(declared: Any) -> str:
    """A declared type, in the same words."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(argument) for argument in arguments)
    if origin is Literal:
        values = [str(value) for value in arguments]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if declared is None or declared is types.NoneType:
        return "null"
    if dataclasses.is_dataclass(declared):
        return f"a mapping with {_keys_of(declared)}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if declared in plain:
        return plain[declared]
    if declared is Path:
        return "a path"
    if _is_mapping(origin or declared):
        return "a mapping"
    if _is_sequence(origin or declared):
        fixed = arguments and arguments[-1] is not Ellipsis and (origin or declared) is tuple
        return f"a list of {len(arguments)}" if fixed else "a list"
    return str(declared)


# Plain data to declared types


def _convert(declared: Any, value: Any, place: _Place) -> Any:
    origin = get_origin(declared) or declared
    if declared is Any:
        return _convert_any(value, place)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(declared), value, place, declared)
    if origin is Literal:
        return _convert_literal(get_args(declared), value, place, declared)
    if dataclasses.is_dataclass(origin):
        return _convert_dataclass(origin, value, place)
    if _is_mapping(origin):
        return _convert_mapping(declared, value, place)
    if _is_sequence(origin):
        return _convert_sequence(declared, origin, value, place)
    if origin in _SCALARS:
        return _SCALARS[origin](value, place)
    raise TypeError(f"{place.path}: the schema does not know the type {declared}")


def _is_mapping(origin: Any) -> bool:
    return origin in (dict, Mapping)


def _is_sequence(origin: Any) -> bool:
    return origin in (list, tuple, Sequence)


def _convert_any(value: Any, place: _Place) -> Any:
    if isinstance(value, Mapping):
        return {key: _convert_any(entry, place / key) for key, entry in _items(value, place)}
    if isinstance(value, (list, tuple)):
        entries = cast("Sequence[Any]", value)
        return [_convert_any(entry, place / i) for i, entry in enumerate(entries)]
    if isinstance(value, float):
        return _float(value, place)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise place.error(f"expected plain data, got {_shown(value)}")


def _convert_union(members: tuple[Any, ...], value: Any, place: _Place, declared: Any) -> Any:
    if value is None and types.NoneType in members:
        return None
    fitting = [member for member in members if _fits(member, value)]
    if not fitting:
        # With one member besides null, that member's own message says more.
        others = [member for member in members if member is not types.NoneType]
        if len(others) == 1 and value is not None:
            return _convert(others[0], value, place)
        raise place.error(f"expected {_named(declared)}, got {_shown(value)}")
    if isinstance(value, Mapping):
        # A member that is named by its tag, as `method: uniform`, was meant; else the one that
        # shares most keys: its message helps most.
        entries = cast("Mapping[Any, Any]", value)
        tagged = [member for member in fitting if _has_tag_of(member, entries)]
        tags = [tag for member in fitting for tag in _tags(member).items()]
        if not tagged and (wrong := [(k, entries[k]) for k, _ in tags if k in entries]):
            key, given = wrong[0]
            known = [str(choice) for k, choice in tags if k == key]
            hint = nearest(str(given), known)
            raise (place / key).error(f"expected one of {', '.join(known)}, got {given!r}{hint}")
        fitting = tagged or fitting
        fitting.sort(key=lambda member: -len(set(entries) & set(_field_names(member))))
    first: InputError | None = None
    for member in fitting:
        try:
            return _convert(member, value, place)
        except InputError as error:
            first = first or error
    assert first is not None
    raise first


def _fits(member: Any, value: Any) -> bool:
    """Whether a value is of the kind that a member of a union takes; its details come later."""
    origin = get_origin(member) or member
    if member is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(inner, value) for inner in get_args(member))
    if origin is Literal:
        return type(value) in {type(choice) for choice in get_args(member)}
    if dataclasses.is_dataclass(origin) or _is_mapping(origin):
        return isinstance(value, Mapping)
    if _is_sequence(origin):
        return isinstance(value, (list, tuple))
    if origin is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number or (isinstance(value, str) and _EXPONENT.fullmatch(value.strip()) is not None)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Path:
        return isinstance(value, (str, os.PathLike))
    return isinstance(origin, type) and isinstance(value, origin)


def _tags(member: Any) -> dict[str, Any]:
    """The fields of a dataclass that can have one value only, and so tell it from others."""
    if not dataclasses.is_dataclass(member):
        return {}
    hints = get_type_hints(cast("type[Any]", member))
    choices = {
        n: get_args(hints[n]) for n in _field_names(member) if get_origin(hints[n]) is Literal
    }
    return {name: values[0] for name, values in choices.items() if len(values) == 1}


def _has_tag_of(member: Any, entries: Mapping[Any, Any]) -> bool:
    tags = _tags(member)
    return bool(tags) and all(entries.get(name) == value for name, value in tags.items())


def _field_names(member: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(member)] if dataclasses.is_dataclass(member) else []


def _convert_literal(
    choices: tuple[Any, ...], value: Any, place: _Place, declared: Any
) -> bool | int | str:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    known = [choice for choice in choices if isinstance(choice, str)]
    hint = nearest(value, known) if isinstance(value, str) else ""
    raise place.error(f"expected {_named(declared)}, got {_shown(value)}{hint}")


def _convert_dataclass(cls: Any, value: Any, place: _Place) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise place.error(f"expected {_named(cls)}, got {_shown(value)}")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    items = _items(value, place)
    for key, _ in items:
        if key not in fields:
            raise (place / key).error(
                f"unknown key{nearest(key, fields)}; here belong {_keys_of(cls)}"
            )
    given = {key: _convert(hints[key], entry, place / key) for key, entry in items}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in given:
            raise (place / name).error(f"the key is missing; write {_named(hints[name])}")
    try:
        return cls(**given)
    except ValueError as error:
        raise place.error(str(error)) from error


def _convert_mapping(declared: Any, value: Any, place: _Place) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise place.error(f"expected a mapping, got {_shown(value)}")
    key_type, entry_type = get_args(declared) or (str, Any)
    if key_type is not str and get_origin(key_type) is not Literal:
        raise TypeError(
            f"{place.path}: the schema takes mappings with text as keys, not {declared}"
        )
    items = _items(value, place)
    for key, _ in items:
        _convert(key_type, key, place)
    return {key: _convert(entry_type, entry, place / key) for key, entry in items}


def _convert_sequence(declared: Any, origin: Any, value: Any, place: _Place) -> Any:
    if not isinstance(value, (list, tuple)):
        raise place.error(f"expected {_named(declared)}, got {_shown(value)}")
    entries = cast("Sequence[Any]", value)
    arguments = get_args(declared)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(entries) != len(arguments):
            raise place.error(f"expected a list of {len(arguments)}, got {_shown(value)}")
        member_types: Sequence[Any] = arguments
    else:
        member_types = [arguments[0] if arguments else Any] * len(entries)
    converted = [
        _convert(member, entry, place / i)
        for i, (member, entry) in enumerate(zip(member_types, entries, strict=True))
    ]
    return converted if origin is list else tuple(converted)


def _items(value: Any, place: _Place) -> list[tuple[str, Any]]:
    items = list(cast("Mapping[Any, Any]", value).items())
    for key, _ in items:
        if isinstance(key, bool):
            raise place.error(
                f"a key is the boolean {str(key).lower()}, as YAML reads on, off, yes and no: "
                "write the key in quotes"
            )
        if not isinstance(key, str):
            raise place.error(f"the key {key!r} is not text: write it in quotes")
    return items


def _bool(value: Any, place: _Place) -> bool:
    if isinstance(value, bool):
        return value
    hint = ""
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        hint = f": write {value.strip().lower()} without quotes"
    raise place.error(f"expected true or false, got {_shown(value)}{hint}")


def _int(value: Any, place: _Place) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    number = _number_meant(value)
    hint = ""
    if number is not None and math.isfinite(number) and number == int(number):
        hint = f": write {int(number)}"
    raise place.error(f"expected a whole number, got {_shown(value)}{hint}")


def _float(value: Any, place: _Place) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise place.error("expected a number, got one too large for a float") from None
    elif isinstance(value, str) and _EXPONENT.fullmatch(value.strip()):
        number = float(value)
    else:
        meant = _number_meant(value)
        hint = f": write {meant!r} without quotes" if meant is not None else ""
        if isinstance(value, str) and not hint:
            hint = ": write digits, for example 0.001 or 1e-3"
        raise place.error(f"expected a number, got {_shown(value)}{hint}")
    if not math.isfinite(number):
        raise place.error(f"expected a finite number, got {number}")
    return number


def _number_meant(value: Any) -> float | None:
    """The finite number that a text (or a float where a whole number belongs) spells, or None."""
    if not isinstance(value, (str, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _str(value: Any, place: _Place) -> str:
    if isinstance(value, str):
        return value
    hint = ""
    if isinstance(value, (bool, int, float)):
        hint = f": write '{str(value).lower() if isinstance(value, bool) else value}' in quotes"
    raise place.error(f"expected text, got {_shown(value)}{hint}")


def _path(value: Any, place: _Place) -> Path:
    if isinstance(value, os.PathLike):
        return Path(cast("os.PathLike[str]", value))
    return Path(_str(value, place))


_SCALARS: dict[Any, Callable[[Any, _Place], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
}


# YAML to plain data


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses double keys, and scalars that mean something else than they look."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, before merge keys (<<) are resolved, what is written twice was written twice.
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            kind = key.tag.rpartition(":")[2]
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal(key, "a key must be plain text")
            if kind not in {"str", "merge"}:
                kind = {"bool": "a boolean", "null": "null"}.get(kind, "a number or a date")
                raise _refusal(
                    key, f"YAML reads the key {key.value} as {kind}: write '{key.value}' in quotes"
                )
            if key.value in lines:
                raise _refusal(
                    key, f"the key '{key.value}' is already on line {lines[key.value]}: keep one"
                )
            lines[key.value] = key.start_mark.line + 1
        return node


def _refusal(node: yaml.Node, message: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, message, node.start_mark)


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    value = bool(loader.construct_yaml_bool(node))
    written = str(value).lower()
    if node.value.lower() != written:
        raise _refusal(
            node,
            f"YAML reads {node.value} as {written}: write {written}, "
            f"or '{node.value}' in quotes if it is text",
        )
    return value


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    whole = node.tag.endswith(":int")
    number = loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)
    base = "base 60" if ":" in node.value else "octal"
    if base == "base 60" or re.fullmatch(r"[-+]?0[0-7_]+", node.value):
        raise _refusal(
            node,
            f"YAML reads {node.value} as {number} ({base}): write {number}, "
            f"or '{node.value}' in quotes if it is text",
        )
    return number


_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_number)


def _parse(text: str, place: _Place) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise place.error(f"{line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise place.error(f"not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        # A date such as 2026-13-45, or brackets nested a thousand deep.
        raise place.error(f"not YAML that makes sense: {error}") from None


class _Dumper(yaml.SafeDumper):
    """SafeDumper for people: a flat list on one line, and a list used twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(entry, (dict, list)) for entry in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _represent_list)


# Overrides


def _copied(value: Any) -> Any:
    """A copy down to the leaves, with mappings as dicts and sequences as lists."""
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_copied(entry) for entry in cast("Sequence[Any]", value)]
    return value


def _parse_override(text: str) -> tuple[str, Any]:
    path, separator, value = text.partition("=")
    place = _Place(f"override '{text}'")
    if not separator or not value.strip():
        raise place.error("write it as key=value, for example seed=1 or adapt.episodes=5")
    return path.strip(), _parse(value, place)


def _override(content: dict[str, Any], path: str, value: Any) -> None:
    place = _Place(f"override '{path}'")
    parts = path.split(".")
    if not all(part.strip() for part in parts):
        raise place.error("a part of the key path is empty; write it as adapt.episodes=5")
    here: Any = content
    for i, part in enumerate(parts):
        above = ".".join(parts[:i])
        last = i == len(parts) - 1
        if isinstance(here, dict):
            if last:
                here[part] = value
            elif here.get(part) is None:
                here[part] = {}
            here = here[part]
        elif isinstance(here, list):
            entries = cast("list[Any]", here)
            if not part.isdecimal() or int(part) >= len(entries):
                known = f"0 to {len(entries) - 1}" if entries else "empty"
                raise place.error(f"'{above}' is a list ({known}) and has no entry '{part}'")
            if last:
                entries[int(part)] = value
            here = entries[int(part)]
        else:
            raise place.error(f"'{above}' is {_shown(here)} and has no key '{part}' below it")
