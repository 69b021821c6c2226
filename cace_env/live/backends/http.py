"""HTTP with a model server: small calls that manage it, and streams that it generates."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic

from cace_env.config import ConfigError, one_line
from cace_env.live.backends.base import BackendError

if TYPE_CHECKING:
    import aiohttp

CALL_S: Final = 30.0  # a server that manages nothing for so long is gone
SILENCE_S: Final = 600.0  # between two pieces of an answer
# Streams of these end with this event. llama.cpp's router ends the stream of a model that has died as if in order,
# after a line of text that is no event.
OPENAI: Final = ("/v1/chat/completions", "/v1/completions")
LAST_EVENT: Final = b"data: [DONE]"
MOST_ANSWER_BYTES: Final = 1 << 24  # of a call that manages
_KIND_OF_ERROR: Final = re.compile(r"[a-z_]{1,40}")  # a word such as invalid_request_error
Answer = TypeVar("Answer", bound=pydantic.BaseModel)


class Http:
    """One server at one address. Connections are opened at the first call, inside the loop that runs then.

    Args:
        kind: of the server, for errors.
        url: `http://host:port`, with a path where the server stands below one.
        key: sent as a bearer token.
    """

    def __init__(self, kind: str, url: str, key: str | None = None) -> None:
        if not re.fullmatch(r"https?://[^/?#\s]+[^?#\s]*", url):
            raise ConfigError(f"{kind}: the address of the server has to be like http://127.0.0.1:8080")
        self.kind = kind
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, limit_s: float = CALL_S
    ) -> bytes:
        """The body of the answer to a call that manages the server; such calls hold no prompt.

        Raises:
            BackendError: refused, with the server's own words, or gone (502), or too slow (504).
        """
        import aiohttp

        try:
            async with self._opened().request(
                method, self.url + path, json=body, timeout=aiohttp.ClientTimeout(limit_s), allow_redirects=False
            ) as response:
                answer = await response.content.read(MOST_ANSWER_BYTES)
                while not response.content.at_eof() and len(answer) < MOST_ANSWER_BYTES:
                    answer += await response.content.read(MOST_ANSWER_BYTES - len(answer))
        except TimeoutError as error:
            raise BackendError(504, f"{self.kind}: {method} {path} took longer than {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            raise self._gone(error) from error
        if response.status in (401, 403):
            problem = f"status {response.status}: the server wants an API key, or another one than it was given"
            raise BackendError(response.status, f"{self.kind}: {method} {path}: {problem}")
        if response.status != 200:
            said = one_line(answer.decode("utf-8", "replace"))
            raise BackendError(response.status, f"{self.kind}: {method} {path}: status {response.status}: {said}")
        return answer

    async def ask(self, path: str, answer: type[Answer]) -> Answer:
        """The answer to GET as an object.

        Raises:
            BackendError: as for `call`, or the answer has another shape (502).
        """
        content = await self.call("GET", path)
        try:
            return answer.model_validate_json(content)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BackendError(502, f"{self.kind}: GET {path}: {where or 'the answer'}: {first['msg']}") from error

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The answer to a request piece by piece. Words of the server are kept out of errors: they may quote a prompt.

        Raises:
            BackendError: refused, gone or broken off (502), or silent for ten minutes (504).
        """
        import aiohttp

        end = LAST_EVENT if body.get("stream") and path in OPENAI else b""
        tail = b""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=SILENCE_S)
        try:
            async with self._opened().post(
                self.url + path, json=body, timeout=limits, allow_redirects=False
            ) as response:
                try:
                    if response.status != 200:
                        raise self._refused(path, response.status, await response.content.read(1 << 16))
                    async for piece in response.content.iter_any():
                        tail = (tail + piece)[-2 * len(LAST_EVENT) :]
                        yield piece
                    if not tail.rstrip().endswith(end):
                        raise BackendError(502, f"{self.kind}: POST {path}: the stream broke off")
                finally:
                    response.close()  # an answer cut short must not keep the server writing
        except aiohttp.ConnectionTimeoutError as error:
            raise self._gone(error) from error
        except TimeoutError as error:
            raise BackendError(504, f"{self.kind}: POST {path}: nothing came for {SILENCE_S:g} s") from error
        except aiohttp.ClientError as error:
            raise self._gone(error) from error

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            # llama.cpp's HTTP server ends connections when it likes, and a request sent at that moment is lost: each
            # gets a connection of its own.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self._session

    def _gone(self, error: Exception) -> BackendError:
        import aiohttp

        what = "cannot be reached" if isinstance(error, aiohttp.ClientConnectorError) else "is gone"
        return BackendError(502, f"{self.kind}: the server at {self.url} {what} ({type(error).__name__})")

    def _refused(self, path: str, status: int, content: bytes) -> BackendError:
        try:
            word = json.loads(content)["error"]["type"]
        except (ValueError, KeyError, TypeError):
            word = None
        known = isinstance(word, str) and _KIND_OF_ERROR.fullmatch(word)
        return BackendError(status, f"{self.kind}: POST {path}: status {status}" + (f" ({word})" if known else ""))


def require_aiohttp() -> None:
    """Name the extra if aiohttp is missing.

    Raises:
        ConfigError: it is.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ConfigError("driving a server needs aiohttp; run: pip install 'cace-env[live]'") from error
