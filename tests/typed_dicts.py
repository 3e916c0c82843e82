"""Of which types of a union of TypedDicts a dict is, by its keys: messages and events are plain
dicts at run time."""

from typing import Literal, NotRequired, get_args, get_origin, get_type_hints


def types_of(entry, union):
    """Names of the members that have all keys they require in `entry`, with the values that are literal.
    Other keys are passed over."""
    return [member.__name__ for member in get_args(union) if _is(entry, member)]


def _is(entry, member):
    hints = get_type_hints(member, include_extras=True)
    for key, hint in hints.items():
        optional = get_origin(hint) is NotRequired or key not in member.__required_keys__
        if key not in entry:
            if not optional:
                return False
            continue
        hint = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        if get_origin(hint) is Literal and entry[key] not in get_args(hint):
            return False
        if hint in (str, int, bool, dict, list) and not isinstance(entry[key], hint):
            return False
    return True
