"""Parse ``--set FIELD=VALUE`` by the annotated types of the fields of ``Recipe`` and ``Design``."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.paper.settings import SettingError, Settings, alternatives, hints, owner
from nextify.system.text import several


def settings(texts: str | Iterable[str], of: Sequence[type[Settings]] = (Recipe, Design)) -> dict[str, object]:
    """The values of one or several ``FIELD=VALUE``, by name; of a name given twice, the last value holds. Raises
    ``SettingError`` for a text of another form, an unknown name, or a value that the field does not accept."""
    return dict(setting(text, of) for text in several(texts))


def setting(text: str, of: Sequence[type[Settings]] = (Recipe, Design)) -> tuple[str, Any]:
    """The name and the value of one ``FIELD=VALUE``, such as ``betas=0.9,0.95`` or ``optimizer=muon``."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not name or not value:
        raise SettingError(f"--set needs FIELD=VALUE, got {text!r}; for example --set learning_rate=1e-3")
    try:
        kind = owner(name, of)
        found = parsed(value, kind.hint(name))
        accepted = kind.accept(name, found)
        return name, found if isinstance(found, str) else accepted
    except SettingError as error:
        raise type(error)(f"--set {error}") from None


def parsed(text: str, hint: Any) -> Any:
    """The text as a value of the annotated type; unchanged if it is none, so that the field's own check refuses it."""
    choices = alternatives(hint)
    words = [choice for choice in choices if get_origin(choice) is Literal]
    for alternative in [*words, *(choice for choice in choices if choice not in words)]:
        kind = get_args(alternative)[0] if get_origin(alternative) is Annotated else alternative
        try:
            return _parsed(text, kind)
        except ValueError:
            continue
    return text


def _parsed(text: str, kind: Any) -> Any:
    if kind is int:
        return int(text)
    if kind is float:
        try:
            return int(text)
        except ValueError:
            return float(text)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError
        return text
    parts = [part for part in text.strip("()[]").split(",") if part.strip()]
    if get_origin(kind) is tuple:
        return tuple(parsed(part.strip(), get_args(kind)[0]) for part in parts)
    if kind.kind is not None or len(parts) > len(hints(kind)):
        raise ValueError
    # As in rand_augment=9,0.5: a value for each of the first fields.
    return {name: parsed(part.strip(), hint) for (name, hint), part in zip(hints(kind).items(), parts, strict=False)}
