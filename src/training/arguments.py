"""Arguments that are declared once, and are the flags of every class that hands them on."""

import inspect
import re
import textwrap


def takes_arguments_of(*sources: type, given: tuple[str, ...] = ()):
    """Class decorator: `**arguments` of the constructor stand for those of the sources, but for the names in `given`.

    Signature and docstring of the constructor then list them all, so that `--model.depth` has the type, the default
    and the help with which `VisionTransformer` declares its `depth`.
    """

    def decorate(cls: type) -> type:
        init = cls.__init__
        own = [
            p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD
        ]
        taken = [
            p
            for source in sources
            for p in inspect.signature(source).parameters.values()
            if p.name not in given
        ]
        init.__signature__ = inspect.Signature(
            own + [p.replace(kind=p.KEYWORD_ONLY) for p in taken]
        )
        init.__doc__ = "What to build, and how to train it.\n\n    Args:\n" + "\n".join(
            map(_documented, (cls, *sources))
        )
        return cls

    return decorate


def _documented(source: type) -> str:
    """The entries under `Args:` of a class's docstring, which Python 3.13 has taken four spaces from already."""
    docstring = inspect.cleandoc(source.__doc__)
    return textwrap.indent(
        re.search(r"Args:\n(.*?)(?:\n\s*\n|\s*$)", docstring, re.DOTALL)[1], "    "
    )
