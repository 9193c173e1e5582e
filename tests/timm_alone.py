"""timm without torchvision, whose published builds do not load beside PyTorch's for CPUs alone."""

import importlib.abc
import importlib.machinery
import sys
import types

import pytest


class AnyClass(type):
    """A class all of whose attributes are such classes."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyClass(name, (), {})


class StandIn(types.ModuleType):
    """A module that has whatever is asked of it."""

    __path__ = ()
    __getattr__ = AnyClass.__getattr__


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for torchvision and each part of it."""

    def find_spec(self, name, path=None, target=None):
        """Returns torchvision's; None for any other module."""
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        """Returns the stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module):
        """There is nothing to run."""


def import_timm():
    """Returns timm; its networks need nothing of torchvision. Skips where it is not installed."""
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        return pytest.importorskip("timm", reason="needs pip install --no-deps timm")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
