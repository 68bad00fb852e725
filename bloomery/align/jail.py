"""A program of its own: runs code that nobody has read, or the tests of it, each in a process that can do little.

    python -I -S jail.py answer|examine CHANNEL FOLDER SECONDS MEMORY < source      (of examine: a task as JSON)

`answer` defines what the code defines and then answers calls of it through the channel; `examine` runs the tests, whose
names stand for what lies in the other process.  So the code never shares a process with the tests: it cannot read what
they expect, and what it returns are plain values, so that an object that claims to equal everything equals nothing.

What a process cannot do is held by the kernel where it can (resource limits; Landlock for files, signals and TCP;
a network of its own without a way out), and by an audit hook of Python's everywhere.  Imports only the standard
library: it is started without the package.
"""

import ast
import builtins
import json
import os
import sys

MOST = 100_000                  # items of an iterator that are sent
SENT = 50_000_000               # bytes of a message
FILE_SIZE, FILES = 1 << 20, 32  # bytes a file may have, files that may be open
READABLE = ("/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")
NO_NEW_PRIVILEGES, NEW_USER, NEW_NETWORK = 38, 0x10000000, 0x40000000
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446                    # Landlock's system calls
READ_AND_RUN, EVERYTHING = 0b1101, 0xFFFF                                   # execute, read a file, read a folder
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}                                       # how many exist in which version; then 16
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill",
             "os.startfile", "pty.", "ctypes.", "signal.", "ftplib.", "http.", "smtplib.", "urllib.", "imaplib.",
             "poplib.", "nntplib.", "telnetlib.", "webbrowser.", "sqlite3.", "mmap.", "resource.", "gc.", "syslog.",
             "code.__new__", "sys.addaudithook", "fcntl.", "winreg.", "msvcrt.")
PATHS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown",
         "os.truncate", "os.utime", "os.chdir", "os.listdir", "os.scandir", "os.walk", "shutil.", "tempfile.",
         "os.setxattr", "os.removexattr", "os.mkfifo", "os.mknod", "glob.")
ALLOWED_NAMES = ("glob.glob", "glob.glob/2", "tempfile.mkstemp", "tempfile.mkdtemp")    # they open what they find


# --- what a process may not do ----------------------------------------------------------------------------------------

def confine(folder: str, seconds: int, memory: int) -> None:
    """From here on: little time and memory, no network, no new processes, files of `folder` and nothing else."""
    import resource
    import sysconfig

    named = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    libraries = tuple(dict.fromkeys([*named, *map(os.path.realpath, named)]))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))         # a signal that tells why, then the end
    for kind, limit in ((resource.RLIMIT_AS, memory << 20), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0),
                        (resource.RLIMIT_FSIZE, FILE_SIZE), (resource.RLIMIT_NOFILE, FILES)):
        resource.setrlimit(kind, (limit, limit))
    kernel(folder, libraries)
    for name in ("ctypes", "_ctypes", "resource"):
        sys.modules.pop(name, None)
    os.environ.clear()
    sys.addaudithook(hook(folder, libraries))


def kernel(folder: str, libraries: tuple[str, ...]) -> None:
    """What the kernel of this machine offers; where it offers nothing the audit hook stands alone."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes
        import struct
        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError):
        return
    if libc.unshare(NEW_NETWORK) != 0:
        libc.unshare(NEW_USER | NEW_NETWORK)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    rights = (1 << RIGHTS.get(version, 16)) - 1
    fields = [rights] + [0b11] * (version >= 4) + [0b11] * (version >= 6)      # files, TCP, sockets and signals
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return
    for path, allowed in [(folder, EVERYTHING), *((path, READ_AND_RUN) for path in (*libraries, *READABLE))]:
        if not os.path.exists(path):
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed &= rights if os.path.isdir(path) else 0b100 & rights
        libc.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.syscall(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def hook(folder: str, libraries: tuple[str, ...]):
    """An audit hook that raises `PermissionError`.

    All it uses is bound here and none of it is Python code: code under it may replace any function of a module.  Paths
    are taken as they are written, which is safe as long as nobody can make a symbolic link to outside.
    """
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    folders = (folder + "/", os.path.realpath(folder) + "/")
    readable = (*folders, *(path + "/" for path in (*libraries, *READABLE)))

    def inside(path, places, *, kind=type, text=str, raw=bytes, number=int, here=os.getcwd) -> bool:
        if kind(path) is number or path is None:
            return True                                         # a file that is open already, or the working folder
        if kind(path) is raw:
            path = path.decode("utf-8", "surrogateescape")
        if kind(path) is not text:
            return False
        path = (path if path.startswith("/") else here() + "/" + path) + "/"
        return "/../" not in path and path.startswith(places)

    def watch(event, arguments, *, kind=type, number=int, forbidden=FORBIDDEN, paths=PATHS, allowed=ALLOWED_NAMES,
              refuse=PermissionError) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = kind(flags) is number and flags & writing
            if inside(path, folders if writes else readable):
                return
        elif event == "object.__setattr__":
            if arguments[1] != "__code__":
                return
        elif event in ("os.listdir", "os.scandir"):
            if inside(arguments[0], readable):
                return
        elif event.startswith(paths):
            outside = [one for one in arguments if kind(one) is not number and not inside(one, folders)]
            if event in allowed or not outside:
                return
        elif not event.startswith(forbidden):
            return
        raise refuse(f"{event} is not allowed here")

    return watch


# --- values between the two processes ---------------------------------------------------------------------------------

SCALARS = (type(None), bool, int, float, str)
CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}


class Kept:
    """Objects that stay where they are, by number."""

    def __init__(self):
        self.objects = []

    def number(self, value) -> int:
        for at, one in enumerate(self.objects):
            if one is value:
                return at
        self.objects.append(value)
        return len(self.objects) - 1


def encode(value, kept: Kept):
    """A value as JSON: plain data as a copy, anything else as the number under which it is kept."""
    for kind in SCALARS:
        if type(value) is kind:
            return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Remote):
        return ["kept", value._number]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, dict):
        return ["dict", *([encode(key, kept), encode(one, kept)] for key, one in value.items())]
    for name, kind in CONTAINERS.items():
        if name != "iterator" and isinstance(value, kind):
            return [name, *(encode(one, kept) for one in value)]
    if isinstance(value, type):
        return ["type", value.__name__] if getattr(builtins, value.__name__, None) is value else \
            ["kept", kept.number(value)]
    if hasattr(value, "__next__") or type(value).__name__ in ("dict_keys", "dict_values", "dict_items"):
        return ["iterator", *(encode(one, kept) for one, _ in zip(value, range(MOST)))]
    return ["kept", kept.number(value)]


def decode(value, found):
    """The value of what `encode` wrote; `found` gives what is kept under a number."""
    if not isinstance(value, list):
        return value
    name, *rest = value
    if name == "kept":
        return found(rest[0])
    if name == "type":
        return getattr(builtins, rest[0])
    if name == "bytes":
        return bytes.fromhex(rest[0])
    if name == "complex":
        return complex(*rest)
    if name == "range":
        return range(*rest)
    if name == "dict":
        return {decode(key, found): decode(one, found) for key, one in rest}
    return CONTAINERS[name]([decode(one, found) for one in rest])


class Channel:
    """Messages to the other process, one JSON value a line."""

    def __init__(self, number: int):
        self.incoming, self.outgoing = os.fdopen(number, "rb"), os.fdopen(os.dup(number), "wb")

    def send(self, message) -> None:
        self.outgoing.write(json.dumps(message).encode() + b"\n")
        self.outgoing.flush()

    def receive(self):
        line = self.incoming.readline(SENT)
        if not line.endswith(b"\n"):
            raise EOFError("the other process has ended")
        return json.loads(line)


# --- the process of the code ------------------------------------------------------------------------------------------

def answer(source: str, channel: Channel) -> None:
    """Define, tell what there is, and answer until nobody asks any more."""
    kept = Kept()
    names = {"__name__": "solution", "__builtins__": __builtins__}
    try:
        exec(compile(source, "solution", "exec"), names)
        told = {name: ["module", value.__name__] if type(value) is type(sys) else encode(value, kept)
                for name, value in names.items() if not name.startswith("__")}
        reply = ["names", told]
    except BaseException as error:
        reply = ["error", type(error).__name__, str(error)[:200]]
    channel.send(reply)
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        try:
            reply = respond(request, kept)
        except BaseException as error:
            reply = ["error", type(error).__name__, str(error)[:200]]
        try:
            text = json.dumps(reply)
        except (ValueError, RecursionError) as error:
            text = json.dumps(["error", type(error).__name__, "what it returned cannot be sent"])
        channel.outgoing.write(text.encode() + b"\n")
        channel.outgoing.flush()


def respond(request, kept: Kept):
    """What the code says to one request; of arguments it has changed in place, what they are now."""
    what, number, *rest = request
    value = kept.objects[number]
    if what == "get":
        return ["value", encode(getattr(value, rest[0]), kept), []]
    if what == "set":
        setattr(value, rest[0], decode(rest[1], kept.objects.__getitem__))
        return ["value", None, []]
    arguments, named = (decode(part, kept.objects.__getitem__) for part in rest)
    if what == "call":
        before = [encode(one, kept) for one in arguments]
        found = encode(value(*arguments, **named), kept)
        after = [encode(one, kept) for one in arguments]
        return ["value", found, [[at, now] for at, (was, now) in enumerate(zip(before, after)) if was != now]]
    return ["value", encode({"len": len, "str": str, "bool": bool, "iter": iter}[what](value)
                            if what != "item" else value[arguments[0]], kept), []]


# --- the process of the tests -----------------------------------------------------------------------------------------

class Remote:
    """Something that lies in the other process: called, asked for attributes, never equal to anything but itself."""

    def __init__(self, number: int, channel: Channel):
        vars(self).update(_number=number, _channel=channel)

    def _ask(self, what: str, *rest):
        self._channel.send([what, self._number, *rest])
        return result(self._channel)

    def __call__(self, *arguments, **named):
        found, changed = self._ask("call", sendable(list(arguments)), sendable(named))
        for at, now in changed:
            update(arguments[at], received(now, self._channel))
        return found

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name)[0]

    def __setattr__(self, name: str, value) -> None:
        self._ask("set", name, sendable(value))

    def __iter__(self):
        return self._ask("iter", ["list"], ["dict"])[0]

    def __len__(self) -> int:
        return self._ask("len", ["list"], ["dict"])[0]

    def __bool__(self) -> bool:
        return self._ask("bool", ["list"], ["dict"])[0]

    def __str__(self) -> str:
        return self._ask("str", ["list"], ["dict"])[0]

    def __getitem__(self, key):
        return self._ask("item", sendable([key]), ["dict"])[0]


def sendable(value):
    """What the tests pass, which must be plain data or come from the code."""
    kept = Kept()
    sent = encode(value, kept)
    if kept.objects:
        raise TypeError(f"the tests pass a {type(kept.objects[0]).__name__}, which cannot be sent")
    return sent


def result(channel: Channel):
    """A reply's value and the arguments it has changed, or its exception, as one of Python's own."""
    what, *rest = channel.receive()
    if what == "error":
        kind = getattr(builtins, str(rest[0]), None)
        is_error = isinstance(kind, type) and issubclass(kind, Exception)
        raise (kind if is_error and kind is not UnicodeDecodeError else RuntimeError)(f"{rest[0]}: {rest[1]}")
    return received(rest[0], channel), rest[1]


def received(value, channel: Channel):
    return decode(value, lambda number: Remote(number, channel))


def update(ours, now) -> None:
    """A list, dict or set of the tests, as the code has left it."""
    if isinstance(ours, list) and isinstance(now, list):
        ours[:] = now
    elif isinstance(ours, (dict, set)) and isinstance(now, type(ours)):
        ours.clear()
        ours.update(now)


def examine(task: str, channel: Channel) -> str:
    """Why the tests did not pass, or nothing. What the prompt defines is taken from the prompt, not from the code."""
    task = json.loads(task)
    what, *rest = channel.receive()
    if what == "error":
        return f"the code: {rest[0]}: {rest[1]}"
    names = {"__name__": "tests", "__builtins__": __builtins__}
    try:
        exec(compile(task["prompt"], "prompt", "exec"), names)
        for name in asked_for(task["tests"], task["entry_point"], rest[0]):
            value = rest[0][name]
            if isinstance(value, list) and value[:1] == ["module"]:
                exec(f"import {name}", names)
            else:
                names[name] = received(value, channel)
        exec(compile(task["tests"], "tests", "exec"), names)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def asked_for(tests: str, entry: str, told: dict) -> list[str]:
    """The names that tests take from the code: what is asked for, else those they use.

    A name of Python's own (`set`, `math`) is not taken from it as long as it defines any other that is used, for a
    `set` that makes all things equal would pass every test; a module is the real one.
    """
    if entry:
        return [entry] if entry in told else []
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    is_module = {name: isinstance(value, list) and value[:1] == ["module"] for name, value in told.items()}
    found = [name for name in told if name in used]
    own = [name for name in found if not hasattr(builtins, name) and name not in sys.stdlib_module_names]
    modules = [name for name in found if is_module[name] and name in sys.stdlib_module_names]
    return modules + (own or [name for name in found if not is_module[name]])


def main() -> None:
    role, number, folder, seconds, memory = sys.argv[1:]
    source = sys.stdin.read()
    channel = Channel(int(number))
    sys.set_int_max_str_digits(0)
    confine(folder, int(seconds), int(memory))
    if role == "answer":
        answer(source, channel)
    else:
        report = os.dup(1)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 1)
        os.write(report, (examine(source, channel) or "passed").encode())
    os._exit(0)


if __name__ == "__main__":
    main()
