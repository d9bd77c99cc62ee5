"""Settings whose types and ranges are their annotations: what ``Design`` and ``Recipe`` share.

A field annotated ``Annotated[float, Range(above=0)] | Literal["off"]`` takes a number above 0 or the word ``off``, and
anything else raises the class's ``error``. A field that holds settings of its own is reached by a dotted name:
``recipe.with_(**{"optimizer.momentum": 0.9})``.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

LARGEST_FLOAT32 = 3e38
"""Larger numbers are infinite in float32, in which networks are trained."""


class SettingError(ValueError):
    """A name or a value that no setting can have; the message says what the setting accepts."""


class _RefusedError(Exception):
    """A value that does not fit an annotation."""


@dataclass(frozen=True)
class Range:
    """Limits of a number."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    odd: bool = False

    def holds(self, number: float) -> bool:
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (not self.odd or number % 2 == 1)
        )

    def __str__(self) -> str:
        limits = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        return " and ".join(f"{word} {_figure(limit)}" for word, limit in limits.items() if limit is not None)


class Settings:
    """Base of frozen dataclasses of settings. The values are checked, and lists made tuples, when an object is made."""

    error: ClassVar[type[SettingError]] = SettingError
    kind: ClassVar[str | None] = None
    """The word that names this class where a field has the choice between several."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names, and what the setting is called now."""

    def __post_init__(self) -> None:
        for name in hints(type(self)):
            object.__setattr__(self, name, self.accept(name, getattr(self, name)))

    @classmethod
    def accept(cls, name: str, value: object) -> Any:
        """The value as the (possibly dotted) field holds it. Raises ``cls.error`` for an unknown name or value."""
        hint = cls.hint(name)
        try:
            return _accept(hint, value)
        except _RefusedError:
            raise cls.error(f"{name} must be {describe(hint)}, got {short(value)}") from None
        except SettingError as error:  # of a setting inside this one
            raise cls.error(f"{name}.{error}") from None

    @classmethod
    def hint(cls, name: str) -> Any:
        """The annotation of a field, which may be dotted. Raises ``cls.error`` for an unknown name."""
        head, dot, rest = name.partition(".")
        own = hints(cls)
        if head not in own:
            raise cls.error(unknown(name, [cls]))
        if not dot:
            return own[head]
        for member in members(own[head]):
            if rest in hints(member):
                return hints(member)[rest]
        raise cls.error(unknown(name, [cls]))

    def with_(self, **changes: Any) -> Self:
        """A copy with the named settings changed. Raises the class's error for an unknown name or value.

        A dotted name changes one part of a setting. The name of a kind (``optimizer="muon"``) brings that kind's
        defaults, or leaves everything as it is where the setting is of that kind already.
        """
        whole: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            self.hint(name)
            head, dot, rest = name.partition(".")
            if dot:
                parts.setdefault(head, {})[rest] = value
            elif not isinstance(value, str) or value != getattr(getattr(self, head), "kind", None):
                whole[head] = self.accept(head, value)
        for head, values in parts.items():
            if whole.get(head) == "off":
                raise self.error(f"{head}=off and {head}.{next(iter(values))} contradict each other: give one of them")
            whole[head] = self._with_parts(head, whole.get(head, getattr(self, head)), values)
        return replace(self, **whole)  # type: ignore[type-var]

    def _with_parts(self, head: str, current: object, values: Mapping[str, object]) -> Settings:
        kinds = members(hints(type(self))[head])
        try:
            if not isinstance(current, Settings):
                return kinds[0](**values)
            if missing := values.keys() - hints(type(current)).keys():
                others = [kind.kind for kind in kinds if missing <= hints(kind).keys()]
                raise self.error(
                    f"{head}.{min(missing)} is a setting of {head}={' and '.join(map(str, others))}, "
                    f"but here {head}={current.kind}: set {head}={others[0]} as well"
                    if others
                    else f"no {head} has {' and '.join(sorted(missing))} together"
                )
            return current.with_(**values)
        except SettingError as error:
            inner = str(error)
            raise self.error(inner if inner.startswith((f"{head}.", "no ")) else f"{head}.{inner}") from None

    def get(self, name: str) -> Any:
        """The value of a field, which may be dotted; None where the present kind does not have it."""
        head, _, rest = name.partition(".")
        value = getattr(self, head)
        return getattr(value, rest, None) if rest else value

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON; a setting with several kinds names its own as ``kind``."""
        kind = {} if self.kind is None else {"kind": self.kind}
        return {**kind, **{name: plain(getattr(self, name)) for name in hints(type(self))}}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The settings of ``to_dict``'s plain data; fields that it leaves out have their defaults."""
        return cls().with_(**values)

    def differences(self, other: Self) -> dict[str, tuple[Any, Any]]:
        """``{field: (mine, theirs)}`` for every field on which the two disagree."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in hints(type(self))}
        return {name: (mine, theirs) for name, (mine, theirs) in pairs.items() if mine != theirs}


def plain(value: object) -> Any:
    """Settings inside ``value`` as plain data for JSON; everything else as it is."""
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return value


_HINTS: dict[type, dict[str, object]] = {}


def hints(kind: type[Settings]) -> dict[str, object]:
    """The annotation of every field."""
    if kind not in _HINTS:
        found = get_type_hints(kind, include_extras=True)
        _HINTS[kind] = {field.name: found[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    return _HINTS[kind]


def members(hint: Any) -> list[type[Settings]]:
    """The classes of settings that an annotation allows."""
    return [member for member in alternatives(hint) if isinstance(member, type) and issubclass(member, Settings)]


def names(kind: type[Settings]) -> list[str]:
    """Every field of a class and, dotted, the fields inside them."""
    own = hints(kind)
    dotted = [f"{name}.{inner}" for name, hint in own.items() for member in members(hint) for inner in hints(member)]
    return list(dict.fromkeys([*own, *dotted]))


def unknown(name: str, kinds: Iterable[type[Settings]]) -> str:
    """What to say of a name that none of the classes has."""
    kinds = list(kinds)
    for kind in kinds:
        if name in kind.renamed:
            return f"{name} is now {kind.renamed[name]}"
    known = [known for kind in kinds for known in names(kind)]
    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    owners = f"{kinds[0].__name__} has" if len(kinds) == 1 else f"{' and '.join(kind.__name__ for kind in kinds)} have"
    return f"{owners} no {name}; {hint}"


def owner(name: str, kinds: Iterable[type[Settings]]) -> type[Settings]:
    """The class that has a field of this (possibly dotted) name. Raises ``SettingError`` where none has."""
    kinds = list(kinds)
    for kind in kinds:
        if name.partition(".")[0] in hints(kind):
            return kind
    raise SettingError(unknown(name, kinds))


def check_ranges(of: object, error: type[ValueError]) -> None:
    """Hold the fields of a dataclass, such as a command's options, to the ranges in their annotations. Raises
    ``error``, which names the field as an option."""
    for name, hint in get_type_hints(type(of), include_extras=True).items():
        value = getattr(of, name)
        if is_dataclass(value):
            check_ranges(value, error)
        elif limits := _ranges(hint):
            try:
                _accept(hint, value)
            except _RefusedError:
                limit = limits[0]
                plain = isinstance(value, Real) and not math.isnan(value) and not limit.holds(value)  # type: ignore[arg-type]
                least = "" if limit.least is None else f"{_figure(limit.least)} or more"
                words = " and ".join(filter(None, (least, str(replace(limit, least=None)))))
                wanted = words if plain else describe(hint)
                raise error(f"--{name.replace('_', '-')} must be {wanted}, got {short(value)}") from None


def _ranges(hint: Any) -> list[Range]:
    """Every range inside an annotation."""
    return [hint] if isinstance(hint, Range) else [found for inner in get_args(hint) for found in _ranges(inner)]


def describe(hint: Any) -> str:
    """What an annotation accepts, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number, limits = describe(arguments[0]), [limit for limit in arguments[1:] if isinstance(limit, Range)]
        if any(limit.odd for limit in limits):
            number = number.replace("a whole", "an odd whole")
        return " ".join([number, *map(str, limits)])
    if origin is Literal:
        return _or([str(choice) for choice in arguments])
    if origin is tuple:
        each = describe(arguments[0]).removeprefix("a ")
        if arguments[-1] is Ellipsis:
            return f"one value or more, each a {each}"
        return f"{'two' if len(arguments) == 2 else len(arguments)} numbers, each {each.removeprefix('number ')}"
    if origin in (Union, types.UnionType):
        kinds = members(hint)
        others: list[str] = []
        for alternative in arguments:
            if get_origin(alternative) is Literal:
                others += map(str, get_args(alternative))
            elif alternative is not types.NoneType and alternative not in kinds:
                others.append(describe(alternative))
        if len(kinds) > 1:
            return _or([*others, *(str(kind.kind) for kind in kinds)])
        return _or([*others, *map(describe, kinds)])
    if hint in (int, float):
        return {int: "a whole number", float: "a number"}[hint]
    return f"{hint.__name__}({', '.join(hints(hint))})"


def _figure(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _accept(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number = _accept(arguments[0], value)
        if not all(limit.holds(number) for limit in arguments[1:] if isinstance(limit, Range)):
            raise _RefusedError
        return number
    if origin in (Union, types.UnionType):
        for alternative in arguments:
            try:
                return _accept(alternative, value)
            except _RefusedError:
                continue
        raise _RefusedError
    if origin is Literal:
        if not (isinstance(value, str) and value in arguments):
            raise _RefusedError
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _RefusedError
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise _RefusedError
        return tuple(_accept(arguments[0], item) for item in value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _RefusedError
        return int(value)
    if hint is float:
        return _number(value)
    if hint is types.NoneType:
        if value is not None:
            raise _RefusedError
        return None
    return _inner(hint, value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _RefusedError
    try:
        number = float(value)
    except OverflowError:
        raise _RefusedError from None
    if not math.isfinite(number):
        raise _RefusedError
    return int(value) if isinstance(value, Integral) else number  # as given, since fingerprints tell 0 from 0.0


def _inner(kind: type[Settings], value: object) -> Settings:
    """Settings inside settings: an object, its kind's name, or its plain data."""
    if isinstance(value, kind):
        return value
    if isinstance(value, str) and value == kind.kind:
        return kind()
    if isinstance(value, Mapping) and value.get("kind") == kind.kind:
        given = {name: inner for name, inner in value.items() if name != "kind"}
        for name in given:
            kind.hint(str(name))
        return kind(**given)
    raise _RefusedError


def short(value: object) -> str:
    """``repr`` on one line of at most 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an int of more digits than Python writes
        text = "a number too long to print"
    return text if len(text) <= 60 else f"{text[:57]}..."
