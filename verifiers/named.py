"""Verifiers by name, as the command line takes them: "math_answer", "unit_tests:timeout=2", "my_module:my_function".

This file knows names. How settings are spelled is ``led_agent.naming``'s to say, and what a verifier's settings are,
its own function's signature.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from led_agent.errors import UsageError
from led_agent.naming import convert, hints_of, load_own, meant, settings
from led_agent.protocols import Verifier

__all__ = ["VERIFIER_NAMES", "parse_verifier"]

VERIFIER_NAMES = ("math_answer", "countdown", "unit_tests", "matches", "consensus", "reward_model", "judge")
_OWN = "your own are package.module:function or path/to/file.py:function"


def parse_verifier(text: str) -> Verifier:
    """The verifier of a name and its settings.

    - ``math_answer``, ``countdown``, ``unit_tests``, ``consensus``; settings follow a colon, with commas between
      them: ``unit_tests:timeout=2,partial=true``. Values are true, false, none, numbers or text, in which ``\\n`` and
      ``\\t`` are escapes; what follows a comma and is no ``name=`` belongs to the value before.
    - ``reward_model:PATH,scope=process``, ``judge:MODEL,url=http://…``: the model comes first.
    - ``matches:REGEX``: the rest is the pattern, whatever is in it.
    - ``package.module:function`` and ``path/to/file.py:function``: a callable ``(problem, branch)`` of the user's own.

    Raises:
        UsageError: no such verifier or setting, or a value that a setting doesn't take; the message says which there
            are.
    """
    name, _, rest = text.strip().partition(":")
    if name in VERIFIER_NAMES:
        return _built_in(name, rest)
    return _checked(load_own(text.strip(), "verifier", _unknown), text)


def _unknown(text: str) -> str:
    close = meant(text.partition(":")[0], VERIFIER_NAMES)
    return f"no verifier is called {text!r}{close}; there are {', '.join(VERIFIER_NAMES)}; {_OWN}"


# --- those of led_agent --------------------------------------------------------------------------------------------


def _built_in(name: str, rest: str) -> Verifier:
    factory = _factory(name)
    if name == "matches":
        if not rest:
            raise UsageError("matches needs a pattern: matches:REGEX, e.g. 'matches:^yes'")
        return factory(rest)
    parameters = inspect.signature(factory).parameters
    first = next((key for key, p in parameters.items() if p.default is p.empty), None)
    secrets = [key for key in parameters if key.endswith("key")]
    given = settings(name, rest, parameters, first=first, unlisted=secrets)
    for key in secrets:
        if key in given:
            raise UsageError(
                f"{name}: {key} isn't taken here, where it would be read by others and kept with the run; set the "
                "environment variable LED_AGENT_JUDGE_API_KEY"
            )
    hints = hints_of(factory)
    values = {key: convert(name, key, value, hints.get(key), parameters[key].default) for key, value in given.items()}
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in values]
    if missing:
        raise UsageError(f"{name} needs its {missing[0]}: {name}:{missing[0].upper()}")
    return factory(**values)


def _factory(name: str) -> Callable[..., Verifier]:
    """The function that makes a verifier, looked up when it is needed: some of them are costly to import."""
    home = importlib.import_module("led_agent.verifiers")
    found = getattr(home, name, None)
    if inspect.ismodule(found):
        found = getattr(found, name, None)
    if not callable(found):
        there = [n for n in VERIFIER_NAMES if callable(getattr(home, n, None))]
        raise UsageError(f"this version of led_agent has no verifier {name}; it has {', '.join(there)}")
    made: Callable[..., Verifier] = found
    return made


def _checked(found: Any, text: str) -> Verifier:
    """What takes a problem and a branch."""
    told = f"verifier {text}: a verifier is a callable (problem, branch)"
    if isinstance(found, type):
        raise UsageError(f"{told}; found the class {found.__name__}; name a function, or an object of it")
    if not callable(found):
        raise UsageError(f"{told}; found {type(found).__name__}")
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        raise UsageError(f"{told}; found {inspect.signature(found)}: {error}") from error
    except ValueError:  # a builtin without a signature
        pass
    verifier: Verifier = found
    return verifier
