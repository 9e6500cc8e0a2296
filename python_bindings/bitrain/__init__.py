"""bitrain: takes a language model into more languages.

The same parts as the C++ library; tensors are torch tensors and cross without copies.
"""

import torch as _torch  # noqa: F401  The extension's LibTorch is this one: it has to be loaded first.

from ._core import *  # noqa: F401,F403
from ._core import __version__  # noqa: F401
