"""Lists in pages: `{items, next?}`, `next` being the `before` of the following page."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: Sequence[T]
    next: str | None = None


def page_of(items: Sequence[T], limit: int, id_of: Callable[[T], str]) -> Page[T]:
    """A page that says whether more may follow."""
    return Page(items=items, next=id_of(items[-1]) if len(items) == limit else None)
