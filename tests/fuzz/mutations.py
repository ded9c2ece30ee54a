"""Our own mutations of documented requests: of values, texts, encodings and heads that no schema speaks of."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import quote

from tests.e2e.conftest import ITEMS, TITLES, USERS

from .house import MADE_ITEM, MARK, RATER
from .wire import Asked, Header

JSON: Header = (b"Content-Type", b"application/json")
_WITHOUT_BODY = frozenset({"GET", "HEAD"})
_HEAVY = frozenset({"/recommend/batch", "/forget/batch"})  # an answer of theirs takes as long as a hundred others


class Texts:
    """Hostile values, each with the mark or without it."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def text(self) -> str:
        """A text that some part of a service could stumble over."""
        odd = self._chance.choice(_ODD)
        marked = self._chance.choice((odd, MARK + odd, odd + MARK, MARK, f"{MARK}{self._chance.randrange(10**9)}"))
        return marked * self._chance.choice((1, 1, 1, 1, 2, 40))

    def value(self) -> Any:
        """A JSON value of any kind."""
        return self._chance.choice((self.text, self.text, self.text, self._number, self._nested, self._plain))()

    def _number(self) -> Any:
        return self._chance.choice(_NUMBERS)

    def _nested(self) -> Any:
        found: Any = self.text()
        for _ in range(self._chance.choice((1, 2, 5, 60))):
            found = [found] if self._chance.random() < 0.5 else {self.text(): found}
        return found

    def _plain(self) -> Any:
        return self._chance.choice((None, True, False, [], {}, [None], {"": ""}, [[]], "", [MARK] * 300))


_ODD = (
    "", " ", "\t", "\0", "a\0b", "\ud800", "\udfff\ud800", "\ufeff", "\u202e", "\u200b", "\uffff", "\U0010ffff", "é" * 3,
    "e\u0301" * 300, "ﷺ" * 30, "%00", "%ED%A0%80", "../../etc/passwd", "..%2f", "'; DROP TABLE interactions; --",
    '" OR ""="',
    "${jndi:ldap://x}", "{{7*7}}", "<script>alert(1)</script>", "<pad>", "<end>", 'A", "B', "\r\nX-Injected: 1", "\n",
    "a" * 255,
    "a" * 257, "a" * 1025, "a" * 20_001, "1e999", "NaN", "-1", "0", "null", "true", "[]", "film00", USERS[0],
    USERS[7], TITLES[3],
    RATER, MADE_ITEM, "2026-01-31T12:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0", "1e3",
    "2016-12-31T23:59:60Z", "٣", "１２", "🐦" * 64, "Z̷̡̛" * 20,
)  # fmt: skip
_NUMBERS = (
    0, -1, 1, -0.0, 0.5, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 1e308, 5e-324, float("nan"),
    float("inf"),
    float("-inf"), 1.5, 99_999_999_999, 100_000_000_000, 1e15, 1e16, 10_000, 200, 201,
)  # fmt: skip


class Mutator:
    """Makes requests of the document's operations and examples, one after the other."""

    def __init__(self, document: Mapping[str, Any], chance: Random, keys: Sequence[str]) -> None:
        self._chance = chance
        self._texts = Texts(chance)
        self._keys = keys
        self._operations = list(_operations(document))
        self._kinds: Sequence[Callable[[Asked, Any], Asked]] = (
            self._valued, self._valued, self._valued, self._valued, self._shaped, self._shaped, self._written,
            self._written,
            self._encoded, self._typed, self._packed, self._headed, self._headed, self._placed, self._placed, self._queried,
            self._called, self._hosted, self._stated, self._as_documented, self._no_http,
        )  # fmt: skip

    def asked(self) -> Asked:
        """The next request."""
        template, method, examples, fields = self._chance.choice(self._operations)
        if template in _HEAVY and self._chance.random() < 0.8:
            return self.asked()
        body = copy.deepcopy(self._chance.choice(examples)) if examples else None
        if isinstance(body, dict) and self._chance.random() < 0.3:
            body[self._chance.choice(fields)] = self._texts.value()
        request = Asked(method, self._target(template), (), b"", template, self._key())
        if body is not None:
            request = replace(request, headers=(JSON,), body=_dumped(body))
        return self._chance.choice(self._kinds)(request, body)

    def _key(self) -> str:
        # Most come in, or nothing behind the door would be met.
        return "all" if self._chance.random() < 0.6 else self._chance.choice(self._keys)

    def _target(self, template: str) -> bytes:
        item, user = self._chance.choice(ITEMS)[0], self._chance.choice([*USERS, RATER])
        named = {"{item_id}": item, "{user_id}": user, "{request_id}": self._chance.choice(("f-1", "0" * 32))}
        for name, value in named.items():
            template = template.replace(name, value)
        return template.encode()

    def _as_documented(self, request: Asked, _: Any) -> Asked:
        return request

    def _valued(self, request: Asked, body: Any) -> Asked:
        """Another value in some places."""
        if not isinstance(body, dict):
            return self._placed(request, body)
        for _ in range(self._chance.choice((1, 1, 2))):
            holder, place = self._chance.choice(list(_places(body)))
            value = self._texts.value()
            # Of a kind that is expected, in half of the cases: whatever is of another kind is refused early.
            holder[place] = (
                self._texts.text() if isinstance(holder[place], str) and self._chance.random() < 0.5 else value
            )
        return replace(request, body=_dumped(body), what="value")

    def _shaped(self, request: Asked, body: Any) -> Asked:
        """Fields too many or too few, lists too long."""
        if not isinstance(body, dict):
            return self._queried(request, body)
        holder, place = self._chance.choice(list(_places(body)))
        shape = self._chance.randrange(4)
        if shape == 0:
            del holder[place]
        elif shape == 1 and isinstance(holder, dict):
            holder[self._texts.text()] = self._texts.value()
        elif shape == 2:
            holder[place] = [copy.deepcopy(holder[place])] * self._chance.choice((0, 2, 201, 1_001))
        else:
            holder[place] = {str(holder[place])[:40]: self._texts.value()}
        return replace(request, body=_dumped(body), what="shape")

    def _written(self, request: Asked, body: Any) -> Asked:
        """Text that is no JSON, or JSON that parsers read differently."""
        text = _dumped({} if body is None else body).decode()
        twice = text[:-1] + f", {text[1:-1] or json.dumps(MARK) + ':1'}}}"
        written = (
            "", " ", "{", text[:-1], text + text, text + MARK, f"\ufeff{text}", text.replace('"', "'"), twice,
            f"/* {MARK} */ {text}",
            "[" * 100_000, '{"a":' * 20_000, "[" * 500 + "]" * 500, "1" * 10_000, "-", "NaN", "Infinity", '"\\ud800"',
            '"\\u00"',
            f'"{MARK}"', "null", "true", f'{{"{MARK}": 1}}', text.replace(":", ": " + " " * 5_000, 1),
            text.replace("1", "1e5"),
            text.replace("0", "0" * 5_000, 1), text.replace("1", "1." + "3" * 4_000, 1), "\x00" + text,
            text[: len(text) // 2],
        )  # fmt: skip
        return replace(request, headers=(JSON,), body=self._chance.choice(written).encode(), what="text")

    def _encoded(self, request: Asked, body: Any) -> Asked:
        """Bytes in another encoding than JSON's, or in none."""
        text = _dumped({"user_id": MARK} if body is None else body).decode()
        name = self._chance.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "utf-7"))
        coded = self._chance.choice(
            (text.encode(name, "replace"), text.encode() + b"\xff\xfe", b"\x80" * 9, bytes(range(256)))
        )
        said = self._chance.choice((b"", b"; charset=utf-16", b"; charset=" + MARK.encode(), b"; charset=utf-8; q=1"))
        return replace(request, headers=((JSON[0], JSON[1] + said),), body=coded, what="encoding")

    def _typed(self, request: Asked, _: Any) -> Asked:
        """Another content type, none, or two."""
        types = (
            b"text/plain", b"application/xml", b"multipart/form-data; boundary=x",
            b"application/x-www-form-urlencoded", b"",
            b"application/json+x", b"APPLICATION/JSON", b" application/json ", b"application/json;", b"*/*",
            b"application/merge-patch+json",
            MARK.encode(), b"\xff\xfe", b"application/json, text/plain",
        )  # fmt: skip
        named = tuple((JSON[0], self._chance.choice(types)) for _ in range(self._chance.choice((1, 1, 2))))
        return replace(request, headers=self._chance.choice((named, ())), what="content type")

    def _packed(self, request: Asked, _: Any) -> Asked:
        """Packed in ways that are promised, and are not so."""
        packed = gzip.compress(request.body)
        bodies = (
            packed, packed[:-4], packed + packed, packed + b"rest", request.body, b"", zlib.compress(request.body),
            b"\x1f\x8b",
            gzip.compress(b" " * 20_000_000), gzip.compress(packed),
        )  # fmt: skip
        name = self._chance.choice(
            (b"gzip", b"x-gzip", b"deflate", b"br", b"gzip, gzip", b"identity", b"GZIP", MARK.encode())
        )
        return replace(
            request, headers=(JSON, (b"Content-Encoding", name)), body=self._chance.choice(bodies), what="packing"
        )

    def _headed(self, request: Asked, _: Any) -> Asked:
        """Headers that are odd, false, or many."""
        odd = (
            self._texts.text()
            .encode("utf-8", "replace")
            .replace(b"\0", b"")
            .replace(b"\r", b"")
            .replace(b"\n", b"")[:2_000]
        )
        mark = MARK.encode()
        headers: tuple[Header, ...] = self._chance.choice((
            ((b"Idempotency-Key", odd),), ((b"Idempotency-Key", mark), (b"Idempotency-Key", mark + b"2")),
            ((b"Authorization", b"Bearer " + odd),), ((b"Authorization", odd),), ((b"X-API-Key", odd),),
            ((b"Authorization", b"Basic " + base64.b64encode(mark)),), ((b"Authorization", b"Bearer a.b." + mark),),
            ((b"Authorization", b"Bearer x"), (b"Authorization", b"Bearer y")), ((b"X-Forwarded-For", odd),),
            ((b"Forwarded", b"for=" + mark),), ((b"traceparent", odd),), ((b"tracestate", odd),), ((b"baggage",
            b"user=" + mark),),
            ((b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),), ((b"Accept", odd),), ((b"Range",
            b"bytes=0-1"),),
            ((b"Accept-Encoding", b"gzip;q=nan"),), ((b"Cookie", b"session=" + mark),), ((b"If-None-Match", b"*"),),
            ((b"User-Agent", odd),), ((b"Referer", mark),), ((b"Origin", b"http://" + mark),),
            ((b"X-HTTP-Method-Override", b"DELETE"),),
            tuple((b"X-" + str(n).encode(), mark) for n in range(120)), ((b"X-Long", mark * 7_000),),
            ((b"Accept-Language", odd),),
            ((b"X-Request-Id", odd),), ((b"X-Request-ID", b"a" * 500),), ((b"Upgrade", b"websocket"), (b"Connection",
            b"Upgrade")),
        ))  # fmt: skip
        return replace(request, headers=(*request.headers, *headers), what="headers")

    def _placed(self, request: Asked, _: Any) -> Asked:
        """Another id in the path, in odd spellings."""
        template = request.template or "/"
        name = self._texts.text()
        spelled = self._chance.choice((
            quote(name.encode("utf-8", "replace"), safe=""), quote(name.encode("utf-16-le", "surrogatepass"), safe=""),
            "%00" + MARK, "%FF%FE", "%ED%A0%80" + MARK, "%2e%2e%2f" + MARK, "..", ".", "%2F", "%", "%zz", ";" + MARK,
            MARK + "/" + MARK,
            quote(self._chance.choice([*USERS, RATER, MADE_ITEM])),
        ))  # fmt: skip
        if "{" not in template:
            spelled = quote(template.rpartition("/")[2]) + self._chance.choice(
                ("/", "//", "%20", "%00", "/" + spelled, "")
            )
            target = f"{template.rpartition('/')[0]}/{spelled}"
            return replace(request, target=target.encode("ascii", "replace"), template=None, what="path")
        before, _, rest = template.partition("{")
        target = before + spelled + rest.partition("}")[2]
        # What is decoded may be another path.
        return replace(request, target=target.encode("ascii", "replace"), what="path")

    def _queried(self, request: Asked, _: Any) -> Asked:
        """Parameters that are odd, twice there, or of another kind; cursors that no answer gave."""
        text = quote(self._texts.text().encode("utf-8", "replace"), safe="")
        cursors = [
            _cursor(value)
            for value in (["a"], [["a"]], [1], {"a": 1}, [MARK, "nan"], ["nan", "a"], ["inf", MARK], ["1e400", "a"])
        ]
        cursors += [
            _cursor([MARK] * 5_000),
            "AAAA",
            "=",
            "%00",
            base64.urlsafe_b64encode(zlib.compress(b"[" * 10**6)).decode(),
        ]
        cursors += [
            _cursor(["\ud800"]),
            _cursor([""]),
            _cursor(["1" * 5_000, "a"]),
            text,
            base64.b64encode(b"\xff" * 99).decode(),
        ]
        query = self._chance.choice((
            f"cursor={self._chance.choice(cursors)}", f"cursor={self._chance.choice(cursors)}&limit={text}",
            f"limit={text}",
            f"limit={self._chance.choice(_NUMBERS)}", f"state={text}", "limit=1&limit=2", f"{text}={text}", "&&&===",
            f"format={text}",
            "format=csv", f"user_id={MARK}", "cursor[]=1", f"state=completed&limit=1&cursor={self._chance.choice(cursors)}",
        ))  # fmt: skip
        return replace(request, target=request.target + b"?" + query.encode("ascii", "replace"), what="query")

    def _called(self, request: Asked, _: Any) -> Asked:
        """By another method."""
        methods = (
            "GET",
            "HEAD",
            "POST",
            "PUT",
            "PATCH",
            "DELETE",
            "OPTIONS",
            "TRACE",
            "CONNECT",
            "get",
            "PROPFIND",
            MARK.upper(),
        )
        method = self._chance.choice(methods)
        body = b"" if method == "HEAD" else request.body
        return replace(request, method=method, body=body, what="method")

    def _hosted(self, request: Asked, _: Any) -> Asked:
        """Under another name."""
        hosts = (
            b"elsewhere.example",
            b"",
            MARK.encode(),
            b"127.0.0.1:x",
            b"[::1",
            b"a" * 300,
            b"\xff",
            b"localhost, " + MARK.encode(),
        )
        named = ((b"Host", self._chance.choice(hosts)),)
        return replace(request, headers=(*named, *request.headers), what="host")

    def _stated(self, request: Asked, _: Any) -> Asked:
        """With a false length, or in chunks."""
        chunked = b"%x\r\n%s\r\n0\r\n" % (len(request.body), request.body) if request.body else b"0\r\n"
        if self._chance.random() < 0.5:
            ends = self._chance.choice((b"\r\n", b"X-Trailer: " + MARK.encode() + b"\r\n\r\n"))
            headers = (*request.headers, (b"Transfer-Encoding", b"chunked"))
            return replace(request, headers=headers, body=chunked + ends, what="transfer")
        length = self._chance.choice((b"0", b"-1", b"1", b"9" * 30, b"x", b"0x10", b"999999999", b"+5"))
        if length == b"1" and not request.body:
            length = b"0"
        return replace(request, headers=(*request.headers, (b"Content-Length", length)), what="length")

    def _no_http(self, request: Asked, _: Any) -> Asked:
        """No request at all."""
        targets = (
            b"*",
            b"http://" + MARK.encode() + b"/healthz",
            b"//" + MARK.encode(),
            b"/" + b"a" * 9_000,
            b"\xff\xfe",
            b"/ x",
            b"",
        )
        return replace(request, target=self._chance.choice(targets), template=None, what="no http")


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Any], list[str]]]:
    """Of every operation its path, its method, the bodies that its schema gives as examples, and the fields of these."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            forms = list(_forms(document, content.get("schema", {})))
            examples = [example for form in forms for example in form.get("examples", ())]
            yield path, method.upper(), examples, [name for form in forms for name in form.get("properties", ())]


def _forms(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield schema
    for form in schema.get("oneOf", ()):
        yield from _forms(document, form)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: what holds it, and its key or index there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, held in list(inner):
        yield value, place
        yield from _places(held)


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:  # a number of too many digits for Python, which others write all the same
        return json.dumps(value, default=str).encode()


def _cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(value).encode(), 9)).decode()
