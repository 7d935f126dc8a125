"""Who may ask: only those who know the address with its secret, from this machine or through a tunnel to it.

The secret is the first part of every path. So there is no cookie that other pages could ride on or other explorers on
this machine would share, and the page works in the frame of a notebook, where browsers keep cookies out.
"""

from __future__ import annotations

import secrets

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Names by which a browser on this machine, or at the other end of a tunnel, calls it. Others are a page elsewhere
#: whose name was made to mean this machine.
HOSTS = ["127.0.0.1", "localhost", "[::1]"]
HEADERS = {
    # Both libraries for drawing make functions of text; nothing comes from elsewhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A secret that cannot be guessed, of letters that an address may have."""
    return secrets.token_urlsafe(32)


class TokenRequired:
    """Lets requests through whose path begins with the secret, and takes it off.

    Parameters
    ----------
    app : ASGI application
    token : str
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        # In the same time for every wrong one, so that it cannot be found letter by letter.
        if not (slash and secrets.compare_digest(first.encode(errors="replace"), self.token.encode())):
            text = "Forbidden: open the whole address that cryodrgn-ext explore has printed.\n"
            await PlainTextResponse(text, 403, HEADERS)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"], *((name.encode(), text.encode()) for name, text in HEADERS.items()),
                ]  # fmt: skip
            await send(message)

        await self.app({**scope, "path": f"/{rest}", "raw_path": None}, receive, with_headers)


def protection(token: str) -> list[Middleware]:
    """What stands before the application: the name of the host, then the secret."""
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        Middleware(TokenRequired, token=token),
    ]
