"""HTTP/1.1 as uvicorn speaks it; bytes that are no request get an error body, too, not a line of plain text.

They never reach the application, so that its layers cannot answer them.
"""

import sys

from bloomery.core.errors import BloomeryError
from bloomery.serve.limits import Refusal

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise BloomeryError("uvicorn is not installed", why=str(error), hint="pip install 'bloomery[serve]'") from error

NO_REQUEST = Refusal(400, "these bytes are no HTTP/1.1 request", "invalid_http")
LONG_HEAD = Refusal(431, "the headers are larger than this server takes", "headers_too_large")


class Protocol(H11Protocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:
        """Called while the error that h11 raised is handled; it knows the one status worth telling apart."""
        refusal = LONG_HEAD if getattr(sys.exception(), "error_status_hint", 400) == LONG_HEAD.status else NO_REQUEST
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):        # else an answer is under way: just hang up
            body = refusal.error()
            headers = [("content-type", "application/json"), ("content-length", str(len(body))),
                       ("connection", "close"), *refusal.headers]
            for event in (h11.Response(status_code=refusal.status, headers=headers), h11.Data(data=body),
                          h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()
