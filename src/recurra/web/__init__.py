"""The lens in the browser: a page served on localhost. `recurra inspect` opens it, or
`recurra.web.serve(model, data)`.
"""

from __future__ import annotations

from recurra.web.server import build_app, serve

__all__ = ["build_app", "serve"]
