"""What a bundle says of how it was learnt, where the command line leaves it out: trait, template, stop.

In:  an option's value and a bundle. Out: the text to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgesteer.cli.options import unescaped

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle


def own(bundle: Bundle | None, key: str) -> str | None:
    """A text in the manifest's `training`; None where it is missing, blank, or no text."""
    value = None if bundle is None else bundle.training.get(key)
    return value if isinstance(value, str) and value.strip() else None


def trait_of(given: str | None, bundle: Bundle | None, option: str = "--trait") -> str | None:
    """The option's, or the bundle's own; None where nobody says it. UsageError for an empty one."""
    if given is not None and not given.strip():
        raise click.UsageError(f"{option} is empty; give a text, or leave it out for the bundle's own")
    return own(bundle, "trait") if given is None else given


def sure_trait(given: str | None, bundle: Bundle, named: str) -> str:
    """`trait_of`, where there must be one. UsageError without any."""
    trait = trait_of(given, bundle)
    if trait is None:
        raise click.UsageError(f"{named} does not say what it was learnt from; give --trait TEXT")
    return trait


def text_of(given: str | None, bundle: Bundle | None, key: str) -> str | None:
    """The option's text, where \\n is a line break; else the bundle's own."""
    return own(bundle, key) if given is None else unescaped(given)
