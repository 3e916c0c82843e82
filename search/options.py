"""Named methods: functions whose keyword options are what a space file may set. Searchers and schedulers
are listed so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from spaces.complaints import meaning
from spaces.errors import UserError
from spaces.values import did_you_mean


class OptionError(UserError):
    """An option of a method is unknown or has a value that is not legal; `option` is its name."""

    def __init__(self, message: str, option: str):
        super().__init__(message)
        self.option = option


class Methods(Mapping[str, Callable[..., Any]]):
    """Functions by name. Positional parameters are the program's; keyword-only ones with defaults are
    the user's, and their annotations (`Annotated[int, Field(ge=1, description="...")]`) say what is legal
    and what it means."""

    def __init__(self, kind: str, functions: tuple[Callable[..., Any], ...]):
        self.kind, self._functions = kind, {function.__name__: function for function in functions}
        self._forms: dict[str, type[BaseModel]] = {}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The function. Raises `UserError` naming what is legal."""
        if name not in self._functions:
            hint = did_you_mean(name, self._functions)
            raise UserError(f"unknown {self.kind} {name!r}{hint}; legal: {', '.join(self._functions)}")
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def form(self, name: str) -> type[BaseModel]:
        """The options of a method as a pydantic model. Raises `UserError` for an unknown name."""
        method = self[name]
        if name not in self._forms:  # a method is built for every proposal
            hints = get_type_hints(method, include_extras=True)
            fields: dict[str, Any] = {key: (hints[key], parameter.default)
                                      for key, parameter in inspect.signature(method).parameters.items()
                                      if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
            self._forms[name] = create_model(name,
                                             __config__=ConfigDict(extra="forbid", strict=True), **fields)
        return self._forms[name]

    def options(self, name: str) -> dict[str, Any]:
        """The options of a method with their defaults."""
        return self.form(name)().model_dump()

    def build(self, name: str, chosen: Mapping[str, Any] | None, *given: Any) -> Any:
        """What the method returns. Raises `UserError` for an unknown name, `OptionError` for
        an option that is not legal."""
        form = self.form(name)
        for key in chosen or {}:
            if key not in form.model_fields:
                legal = ", ".join(form.model_fields) or "none"
                hint = did_you_mean(key, form.model_fields)
                raise OptionError(f"{self.kind} {name!r}: unknown option {key!r}{hint}; legal: {legal}", key)
        try:
            return self[name](*given, **form(**(chosen or {})).model_dump())
        except UserError:
            raise
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = str(first["loc"][0])
            raise OptionError(f"{self.kind} {name!r}: option {key!r} {meaning(first)}", key) from None
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.kind} {name!r}: {error}") from error
