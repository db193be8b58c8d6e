"""Receives bucket events from an SQS queue ("Amazon SQS short and long polling", "visibility timeout" of its guide).

A message is deleted once it is done with. While one is worked on it is kept from others by extending its visibility
timeout, so a process that dies is replaced within a minute, however long landing may take.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from pipeline.events import s3
from pipeline.events.intake import Disposition, take
from pipeline.events.pace import Pace
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)

AT_ONCE = 10  # messages in hand: the most that SQS gives out at once
WAIT_S = 5  # one long poll; a stop is noticed behind it
VISIBLE_AFTER_S = 60  # a message in hand is nobody else's for so long
EXTEND_EVERY_S = 20.0
LONGEST_S = 43_200  # the longest visibility timeout there is


class SqsSource:
    """One queue."""

    def __init__(self, endpoint: str, path: str, region: str, services: Services) -> None:
        self.name = f"sqs/{path.rpartition('/')[2]}"
        self._endpoint = endpoint
        self._url = endpoint + path
        self._region = region
        self._services = services
        self._pace = Pace(services.settings)  # the queue is away
        self._rest = Pace(services.settings)  # something behind us is
        self.extend_every = EXTEND_EVERY_S

    def run(self, stop: threading.Event) -> None:
        """See Source."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._client()
        log.info("receiving", source=self.name)
        with ThreadPoolExecutor(AT_ONCE, "sqs") as pool:
            while not stop.is_set():
                try:
                    messages = self._receive(client)
                except (BotoCoreError, ClientError) as exc:
                    delay = self._pace.failed()
                    log.warning("queue cannot be read", source=self.name, error=_code(exc), again_in=round(delay, 1))
                    stop.wait(delay)
                    continue
                self._pace.worked()
                if not self._work(client, pool, messages):
                    # Everything came back because a part is away: were the queue read on, each of its messages would
                    # be given out and counted in vain, until its redrive policy gave it up.
                    stop.wait(self._rest.failed())
                elif messages:
                    self._rest.worked()
        client.close()

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=5,
            read_timeout=WAIT_S + 15,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=2,
            tcp_keepalive=True,
        )
        session = boto3.session.Session()
        return session.client("sqs", region_name=self._region, endpoint_url=self._endpoint, config=config)

    def _receive(self, client: Any) -> Sequence[Mapping[str, Any]]:
        answer = client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=AT_ONCE,
            WaitTimeSeconds=WAIT_S,
            VisibilityTimeout=VISIBLE_AFTER_S,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages: Sequence[Mapping[str, Any]] = answer.get("Messages", ())
        return messages

    def _work(self, client: Any, pool: ThreadPoolExecutor, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Take all of them, holding on to those that take long; False if a part is away and none was done with."""
        waiting: dict[Future[Disposition], Mapping[str, Any]] = {
            pool.submit(self._take, each): each for each in messages
        }
        away, done = 0, 0
        while waiting:
            ready, _ = wait(waiting, timeout=self.extend_every)
            finished = [(waiting.pop(future), future.result()) for future in ready]
            acked = [message for message, disposition in finished if disposition is Disposition.ACK]
            again = [message for message, disposition in finished if disposition is Disposition.RETRY]
            self._ask(client.delete_message_batch, [{"ReceiptHandle": each["ReceiptHandle"]} for each in acked])
            self._ask(client.change_message_visibility_batch, [_hidden(each, self._delay(each)) for each in again])
            self._ask(
                client.change_message_visibility_batch, [_hidden(each, VISIBLE_AFTER_S) for each in waiting.values()]
            )
            away, done = away + len(again), done + len(acked)
        return done > 0 or away == 0

    def _take(self, message: Mapping[str, Any]) -> Disposition:
        body = str(message["Body"]).encode("utf-8", "surrogatepass")
        return take(body, {}, s3.read, self._services, source=self.name, attempt=_attempt(message))

    def _delay(self, message: Mapping[str, Any]) -> int:
        settings = self._services.settings
        delay: float = settings.retry_base_seconds * 2 ** min(_attempt(message) - 1, 20)
        return round(min(max(delay, 1.0), settings.retry_cap_seconds, LONGEST_S))

    def _ask(self, call: Any, entries: list[dict[str, Any]]) -> None:
        """Send one batch. What fails of it comes again, and finds its object known: no reason to stop."""
        from botocore.exceptions import BotoCoreError, ClientError

        if not entries:
            return
        try:
            answer = call(QueueUrl=self._url, Entries=[{"Id": str(n), **each} for n, each in enumerate(entries)])
        except (BotoCoreError, ClientError) as exc:
            log.warning("messages will come again", source=self.name, error=_code(exc), count=len(entries))
            return
        if failed := answer.get("Failed"):
            log.warning("messages will come again", source=self.name, error=failed[0].get("Code"), count=len(failed))


def _hidden(message: Mapping[str, Any], seconds: int) -> dict[str, Any]:
    return {"ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": seconds}


def _attempt(message: Mapping[str, Any]) -> int:
    count = str(message.get("Attributes", {}).get("ApproximateReceiveCount", ""))
    return int(count) if count.isdecimal() else 1


def _code(exc: Exception) -> str:
    """What went wrong, without the words: they may hold the queue's address."""
    response: Any = getattr(exc, "response", {})
    return str(response.get("Error", {}).get("Code") or type(exc).__name__)
