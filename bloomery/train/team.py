"""The processes that train one model together: who is here, what they tell each other, what if one is lost.

`torchrun` starts the ranks and sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; `join` reads them.  Small values go
round as JSON over gloo, in the order of the ranks, so that every rank adds the same numbers in the same order.  Large
tensors are added in pairs: rank r with its neighbour, then pairs with pairs.  An addition of two floats does not depend
on who does it, so the sum over 2^k ranks has the bits of one process that adds its halves in the same order.  Other
numbers of ranks add in the ring's order: repeatable, but not the bits of one process.

A rank that dies closes its connections and the others notice within a fraction of a second; one that hangs is noticed
after the timeout.  Both end with `RankLost`, which names it.
"""

import faulthandler
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bloomery.core.errors import BloomeryError, ConfigError
from bloomery.train.precision import placed

T = TypeVar("T")
TIMEOUT = 300.0         # seconds; torch's own 30 minutes are no help to anybody
LETTER = 4096           # bytes a rank can say in one exchange; longer values need a second
BUCKET = 16 * 2**20     # bytes of gradients added in one exchange
ROLL_CALL = 3.0         # seconds in which a rank that is alive answers
BROKEN = re.compile("gloo/transport|NCCL|[Cc]onnection (closed|reset|refused)|[Tt]imed out")
LOCAL = {"127.0.0.1", "localhost", "::1"}


class RankLost(BloomeryError):
    """Another process of the team has died or does not answer."""


@dataclass
class Team:
    """Ranks 0 .. size - 1, of which this process is one; alone unless it has joined others."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    timeout: float = TIMEOUT
    pairs: list[dist.ProcessGroup] = field(default_factory=list)        # with the neighbour first
    processes: dict[int, int] = field(default_factory=dict)             # rank -> process id, those on this machine
    store: dist.Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes files and speaks."""
        return self.rank == 0

    @property
    def abandoned(self) -> bool:
        """Whether rank 0 is known to have ended; one that was stopped may still go on."""
        return 0 in self.processes and condition(self.processes[0]) == "is gone"

    def gather(self, value: Any) -> list[Any]:
        """What every rank says, by rank. Anything JSON can hold; floats come through exactly."""
        if self.size == 1:
            return [value]
        said = json.dumps(value).encode()
        with self.watched():
            letters = self._exchange(said, LETTER)
            longest = max(length for length, _ in letters)
            if longest > LETTER - 8:
                letters = self._exchange(said, longest + 8)
        return [json.loads(text) for _, text in letters]

    def _exchange(self, said: bytes, room: int) -> list[tuple[int, bytes]]:
        letter = torch.zeros(room, dtype=torch.uint8)
        body = (len(said).to_bytes(8, "little") + said)[:room]
        letter[:len(body)] = torch.frombuffer(bytearray(body), dtype=torch.uint8)
        received = [torch.empty_like(letter) for _ in range(self.size)]
        dist.all_gather(received, letter)
        texts = [bytes(each.numpy()) for each in received]
        return [(n := int.from_bytes(text[:8], "little"), text[8:8 + n]) for text in texts]

    def broadcast(self, value: T) -> T:
        """What rank 0 says."""
        return self.gather(value if self.leads else None)[0]

    def any(self, flag: bool) -> bool:
        """Whether it is true for any rank."""
        return any(self.gather(bool(flag)))

    def first(self, reason: str | None) -> str | None:
        """The reason of the lowest rank that has one: when one rank stops, all stop, after the same step."""
        return next((said for said in self.gather(reason) if said), None)

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Each name's sum over the ranks that have it, added by rank."""
        totals: dict[str, float] = {}
        for told in self.gather(values):
            for name, value in told.items():
                totals[name] = totals.get(name, 0.0) + value
        return totals

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.gather(None)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its sum over the ranks, in place; all ranks bring the same shapes in the same order."""
        if self.size == 1:
            return
        with self.watched():
            for bucket in buckets(tensors):
                flat = bucket[0] if len(bucket) == 1 and bucket[0].is_contiguous() else \
                    torch.cat([tensor.flatten() for tensor in bucket])
                for pair in self.pairs or [None]:
                    dist.all_reduce(flat, group=pair)
                if flat is not bucket[0]:
                    parts = flat.split([tensor.numel() for tensor in bucket])
                    torch._foreach_copy_(bucket, [part.view_as(t) for part, t in zip(parts, bucket, strict=True)])

    def trade(self, parcels: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """Send the flat tensor `parcels[r]` to each rank r; what each sends, rank r `sizes[r]` values."""
        received = parcels[0].new_empty(sum(sizes))
        with self.watched():
            dist.all_to_all_single(received, torch.cat(parcels), sizes, [len(parcel) for parcel in parcels])
        return list(received.split(sizes))

    def share(self, count: int) -> range:
        """This rank's part of `count` things in order."""
        return portion(count, self.rank, self.size)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a failed exchange inside into `RankLost` with the name of the rank that is to blame.

        What goes wrong here for reasons of its own is told to the others, so that they can say why.
        """
        try:
            yield
        except RankLost:
            raise
        except Exception as error:
            if self.size == 1:
                raise
            lost = self._blame() if isinstance(error, dist.DistError) or BROKEN.search(str(error)) else None
            if not lost:
                self._accuse(f"rank {self.rank} failed: {type(error).__name__}: {error}")
                raise
            raise RankLost(self._accuse(lost), where=f"rank {self.rank} of {self.size}",
                           why=str(error).splitlines()[0][:200],
                           hint="see the messages of that rank; then run again: it goes on from the last checkpoint"
                           ) from error

    def _accuse(self, text: str) -> str:
        """The first rank to know tells the others; later ones, who may see only its end, repeat it."""
        try:
            return self.store.compare_set("lost", "", text).decode() or text
        except Exception:                                       # the store was in the process that died
            return text

    def _blame(self) -> str | None:
        """Which rank is gone or silent: by its process where that can be seen, else by who does not answer a call."""
        deadline = time.monotonic() + ROLL_CALL
        present = False
        while True:
            try:
                if not present:
                    self.store.set(f"here/{self.rank}", "")
                    present = True
                if said := self.store.compare_set("lost", "", "").decode():
                    return said
                for rank, process in self.processes.items():
                    if trouble := condition(process):
                        return f"rank {rank} {trouble}"
                absent = [r for r in range(self.size) if not self.store.check([f"here/{r}"])]
            except Exception:                                   # rank 0 keeps the store when no launcher does
                return "rank 0 is gone"
            if not absent:
                return None
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        faulthandler.dump_traceback(file=sys.stderr)
        for rank in absent:
            if rank in self.processes:
                os.kill(self.processes[rank], signal.SIGUSR1)   # it writes down where it hangs
        return f"rank {' and '.join(map(str, absent))} does not answer"

    def leave(self) -> None:
        """Say goodbye when all are done."""
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()


def portion(count: int, rank: int, size: int) -> range:
    """A rank's part of `count` things in order: with 2^k ranks a node of the tree of halves in which they are added."""
    first, end, low, high = 0, count, 0, size
    while high - low > 1:
        middle = (low + high + 1) // 2
        cut = first + -(-(end - first) * (middle - low) // (high - low))
        first, end, low, high = (first, cut, low, middle) if rank < middle else (cut, end, middle, high)
    return range(first, end)


def condition(process: int) -> str | None:
    """Why a process of this machine cannot answer, or None: it is gone, or somebody has stopped it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "is gone"
    except PermissionError:
        return None
    stat = Path(f"/proc/{process}/stat")
    state = stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else "R"
    return {"Z": "is gone", "X": "is gone", "T": "has been stopped", "t": "has been stopped"}.get(state)


def buckets(tensors: Sequence[Tensor], limit: int = BUCKET) -> Iterator[list[Tensor]]:
    """Runs of neighbours of one dtype of at most `limit` bytes together; larger ones alone."""
    held: list[Tensor] = []
    for tensor in tensors:
        if held and (held[0].dtype != tensor.dtype or sum(t.nbytes for t in held) + tensor.nbytes > limit):
            yield held
            held = []
        held.append(tensor)
    if held:
        yield held


def join(*, timeout: float = TIMEOUT) -> Team:
    """The team `torchrun` has started this process for; a team of one when it has not.

    On one machine everything opened here listens on 127.0.0.1 only: torch's store would listen on all interfaces.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return Team()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set",
                          hint="start ranks with torchrun --nproc-per-node=N -m bloomery ...")
    rank = int(os.environ["RANK"])
    together = os.environ["MASTER_ADDR"] in LOCAL or os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if together and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = placed()
    wait = timedelta(seconds=timeout)
    store = open_store(rank, size, wait)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "cpu:gloo", store=store, rank=rank,
                            world_size=size, timeout=wait)
    team = Team(rank, size, device, timeout, neighbours(size), store=dist.PrefixStore("team", store))
    faulthandler.register(signal.SIGUSR1)
    told = team.gather([socket.gethostname(), os.getpid()])
    team.processes = {r: process for r, (host, process) in enumerate(told) if host == told[rank][0] and r != rank}
    return team


def open_store(rank: int, size: int, wait: timedelta) -> dist.Store:
    """Where ranks find each other. torchrun's agent keeps it, else rank 0, on the loopback if that is its address."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listener = None
    if hosts and address in LOCAL:
        listener = socket.create_server((address, port), backlog=2 * size).detach()
    return dist.TCPStore(address, port, size, hosts, wait, wait_for_workers=False, master_listen_fd=listener)


def neighbours(size: int) -> list[dist.ProcessGroup]:
    """This rank's partner in every round of adding in pairs; nothing unless `size` is a power of two."""
    if size & (size - 1):
        return []
    distances = [1 << k for k in range(size.bit_length() - 1)]
    return [dist.new_subgroups_by_enumeration([[r, r | far] for r in range(size) if not r & far])[0]
            for far in distances]

