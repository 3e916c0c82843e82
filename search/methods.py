"""Named methods: functions whose keyword options are what a space file may set. Searchers and schedulers are listed so."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spaces.errors import UserError


class Methods(Mapping[str, Callable[..., Any]]):
    """Functions by name. Positional parameters are the program's, keyword-only ones with defaults are the user's."""

    def __init__(self, kind: str, functions: tuple[Callable[..., Any], ...]):
        self.kind, self._functions = kind, {function.__name__: function for function in functions}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The function. Raises `UserError` naming what is legal."""
        if name not in self._functions:
            near = difflib.get_close_matches(name, self._functions, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown {self.kind} {name!r}{hint}; legal: {', '.join(self._functions)}")
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def options(self, name: str) -> dict[str, Any]:
        """The options of a method with their defaults."""
        return {key: parameter.default for key, parameter in inspect.signature(self[name]).parameters.items()
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY}

    def build(self, name: str, chosen: Mapping[str, Any] | None, *given: Any) -> Any:
        """What the method returns. Raises `UserError` for an unknown name or option and for a value it refuses."""
        method, legal = self[name], self.options(name)
        for key, value in (chosen or {}).items():
            if key not in legal:
                near = difflib.get_close_matches(key, legal, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise UserError(f"{self.kind} {name!r}: unknown option {key!r}{hint}; legal: {', '.join(legal) or 'none'}")
            if isinstance(legal[key], bool) != isinstance(value, bool) or (
                    isinstance(legal[key], str) != isinstance(value, str)):
                raise UserError(f"{self.kind} {name!r}: option {key!r} is {value!r}; expected such as {legal[key]!r}")
        try:
            return method(*given, **(chosen or {}))
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.kind} {name!r}: {error}") from error
