"""Wake-ups and a courtesy lock between processes: hints only, never the truth.

Who waits looks at the ledger again after every wait, rung or not. A lost bell, a flushed or stopped Redis, or a lock
that two hold at once make work later or done twice, with the same result; they never make it wrong. So nobody who holds a
lock, or looks like it, is waited for without end: a deletion that is owed would wait with them.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Protocol

import redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry

from service.errors import InvalidSetting

CHANNEL = "lethe:bell"
LOCK = "lethe:lock"

_ANSWER_SECONDS = 1.0  # a request that rings may not wait long for a Redis that is gone
_LISTEN_SECONDS = 0.25  # how late a listener may notice that it is closed
_HEALTH_CHECK_SECONDS = 15
_PATIENCE = 3600.0  # seconds that a living holder is waited for: longer than builds take, as a rule

logger = logging.getLogger(__name__)


class Bell(Protocol):
    """What API, worker and command line use to wake each other."""

    def ring(self) -> None:
        """Wake all who wait, and who would wait next."""

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return whether something was, or may have been, rung since the last wait."""

    def courtesy_lock(self) -> AbstractContextManager[bool]:
        """Yield whether the caller should do the work; False means that somebody else is at it."""

    def close(self) -> None:
        """Wake all who wait and let go of connections and threads."""


class PollingBell:
    """Wakes the threads of its own process at once; other processes look at the ledger every `interval` seconds."""

    def __init__(self, lock_file: Path, interval: float = 0.25, patience: float = _PATIENCE) -> None:
        """After `patience` seconds of waiting for another holder of the lock, the work is done without it."""
        self._lock_file = lock_file
        self._interval = interval
        self._patience = _Patience()
        self._longest = patience
        self._chime = _Chime()

    def ring(self) -> None:
        """Wake the waiting threads of this process."""
        self._chime.strike()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds and never longer than the interval; return whether it rang."""
        return self._chime.wait(min(timeout, self._interval))

    @contextmanager
    def courtesy_lock(self) -> Iterator[bool]:
        """Yield whether nobody else on this machine holds the lock file, or has for too long; a lock dies with its process."""
        file = self._open_lock_file()
        if file is None:
            yield True
            return
        with file:
            if _try_lock(file.fileno()):
                self._patience.reset()
                yield True
            else:
                yield self._patience.is_over(self._longest, "another process has held the lock file", once=True)

    def close(self) -> None:
        """Wake all who wait; there is nothing to let go of."""
        self._chime.strike()

    def _open_lock_file(self) -> BufferedWriter | None:
        try:
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            return self._lock_file.open("ab")
        except OSError as error:
            logger.warning("no courtesy lock, going on without one: %s", error.strerror)
            return None


class RedisBell:
    """Wakes every process that listens to the same Redis. While Redis is away, waiting degrades to polling."""

    def __init__(
        self, url: str, lock_seconds: float = 30, fallback_interval: float = 1.0, patience: float = _PATIENCE
    ) -> None:
        """Connect when first used. Raises `InvalidSetting` if `url` is not a Redis URL.

        After `patience` seconds of waiting for another holder of the lock, the work is done without it; after `lock_seconds`
        if what is in the lock's key is no lock of ours, as it would stay there.
        """
        self._client = _client(url)
        self._lock_seconds = lock_seconds
        self._longest = patience
        self._patience = _Patience()
        self._fallback_interval = fallback_interval
        self._chime = _Chime()
        self._guard = threading.Lock()
        self._away = False
        self._listening = threading.Event()
        self._closed = threading.Event()
        self._listener: threading.Thread | None = None

    def ring(self) -> None:
        """Wake all who wait anywhere; while Redis is away, those of this process."""
        try:
            self._client.publish(CHANNEL, b"")
        except RedisError as error:
            self._lost(error)
            self._chime.strike()
        else:
            self._found()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return whether it rang, or may have rung unheard. Never raises."""
        self._start_listener()
        if not self._listening.is_set():
            timeout = min(timeout, self._fallback_interval)
        return self._chime.wait(timeout)

    @contextmanager
    def courtesy_lock(self) -> Iterator[bool]:
        """Yield whether nobody else holds the lock, or has for too long. It expires `lock_seconds` after its holder's death.

        While Redis is away everybody gets it: work done twice has the same result, work not done has none.
        """
        lock = Lock(self._client, LOCK, timeout=self._lock_seconds, blocking=False, thread_local=False)
        owned = self._acquire(lock)
        if not owned:
            yield owned is None or self._is_out_of_patience()
            return
        self._patience.reset()
        with self._renewed(lock):
            yield True

    def close(self) -> None:
        """Wake all who wait, stop listening and disconnect."""
        self._closed.set()
        self._chime.strike()
        with self._guard:
            listener = self._listener
        if listener is not None:
            listener.join(_ANSWER_SECONDS + 2 * _LISTEN_SECONDS)
        self._client.close()

    def _start_listener(self) -> None:
        with self._guard:
            if self._listener is not None or self._closed.is_set():
                return
            self._listener = threading.Thread(target=self._listen, name="lethe-bell", daemon=True)
            self._listener.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with self._client.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CHANNEL)
                    self._pass_on(channel)
            except RedisError as error:
                self._listening.clear()
                self._lost(error)
                self._closed.wait(self._fallback_interval)

    def _pass_on(self, channel: PubSub) -> None:
        while not self._closed.is_set():
            message = channel.get_message(timeout=_LISTEN_SECONDS)
            if message is None:
                continue
            if message["type"] == "subscribe":
                self._listening.set()
                self._found()
            # A new subscription counts as a ring, because nobody heard what was rung before it.
            self._chime.strike()

    def _acquire(self, lock: Lock) -> bool | None:
        try:
            owned: bool = lock.acquire()
        except RedisError as error:
            self._lost(error)
            return None
        return owned

    def _is_out_of_patience(self) -> bool:
        try:
            left: int = self._client.pttl(LOCK)  # milliseconds; -1: it never expires, -2: it is free by now
        except RedisError as error:
            self._lost(error)
            return True
        if left == -1 or left > 1000 * self._lock_seconds:
            what = (
                f"{LOCK} in Redis has held a value that is no lock of Lethe's (remove it, or see who else uses the key)"
            )
            return self._patience.is_over(self._lock_seconds, what, once=False)
        return self._patience.is_over(self._longest, "another worker has held the lock in Redis", once=True)

    @contextmanager
    def _renewed(self, lock: Lock) -> Iterator[None]:
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(lock, done), name="lethe-lock", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            done.set()
            renewer.join()
            self._release(lock)

    def _renew(self, lock: Lock, done: threading.Event) -> None:
        while not done.wait(self._lock_seconds / 3):
            try:
                lock.reacquire()
            except LockError:
                logger.warning("the courtesy lock was lost; another worker may do the same work")
                return
            except RedisError as error:
                self._lost(error)

    def _release(self, lock: Lock) -> None:
        try:
            lock.release()
        except LockError:
            logger.debug("the courtesy lock had expired before it was released")
        except RedisError as error:
            self._lost(error)

    def _lost(self, error: RedisError) -> None:
        with self._guard:
            if self._away:
                return
            self._away = True
        logger.warning("Redis is away, wake-ups come later until it is back: %s", type(error).__name__)
        # Who waits now would otherwise sit out a timeout that counted on Redis.
        self._chime.strike()

    def _found(self) -> None:
        with self._guard:
            was_away, self._away = self._away, False
        if was_away:
            logger.info("Redis is back")


def open_bell(redis_url: str | None, lock_file: Path) -> Bell:
    """Return a bell over Redis if there is a URL, else one for this process and machine. Raises `InvalidSetting`."""
    return RedisBell(redis_url) if redis_url else PollingBell(lock_file)


class _Patience:
    """How long somebody has been waited for; that it is over is logged once. Threads share it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._since: float | None = None
        self._told = False

    def reset(self) -> None:
        with self._guard:
            self._since, self._told = None, False

    def is_over(self, longest: float, what: str, once: bool) -> bool:
        """Whether the wait, which begins with the first call, has lasted `longest` seconds. `what` has been the reason.

        With `once`, it begins anew when it is over: whoever is waited for may be at work.
        """
        now = time.monotonic()
        with self._guard:
            self._since = now if self._since is None else self._since
            waited = now - self._since
            tell, self._told = waited >= longest and not self._told, self._told or waited >= longest
        if tell:
            logger.warning("%s for %.0f s; going on without the courtesy lock", what, waited)
        if once and waited >= longest:
            self.reset()
        return waited >= longest


class _Chime:
    """A condition that remembers for each thread which strikes it has heard, so that none falls between two waits."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._strikes = 0
        self._heard = threading.local()

    def strike(self) -> None:
        with self._condition:
            self._strikes += 1
            self._condition.notify_all()

    def wait(self, timeout: float) -> bool:
        heard: int = getattr(self._heard, "strikes", 0)
        with self._condition:
            self._condition.wait_for(lambda: self._strikes != heard, timeout)
            self._heard.strikes = self._strikes
            return self._strikes != heard


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("no courtesy lock, going on without one: %s", error.strerror)
    return True


def _client(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            socket_keepalive=True,
            health_check_interval=_HEALTH_CHECK_SECONDS,
            # One retry, because a pooled connection may have died with the server that is back by now. None after a
            # timeout: that server is there and silent.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
    except ValueError:
        raise InvalidSetting("LETHE_REDIS_URL is not a Redis URL; expected redis://host:6379/0") from None
