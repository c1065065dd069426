"""An extension of griffe: what the docstrings of the house and the protocols of `typing` need to be read by it."""

import re
from typing import Any

import griffe


class House(griffe.Extension):
    """Read `Example:` as a section of code, and drop the `__init__` that `typing` puts into protocols."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Name the section of examples as griffe does."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Drop what points at a module that griffe does not load."""
        init = cls.members.get("__init__")
        if isinstance(init, griffe.Alias) and init.target_path.startswith("typing."):
            cls.del_member("__init__")
