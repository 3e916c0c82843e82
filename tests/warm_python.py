"""A Python that has imported what Ray's processes import, and is forked for each of them.

A cluster is half a dozen processes in Python, a worker group as many more, and all that most of them do
before they are of use is to import Ray, torch and what these need: seconds of CPU each. Here they run the
same scripts with the same arguments, environment, folder and open files, in a fork of one process that has
imported those libraries already (all but Ray itself, and none of our code). Ray reads the environment when it
is imported, the job it works for among it: processes of one environment, as the workers of a cluster are, are
forks of a fork that has imported Ray there, its nest. `with warm_python() as python` gives the path of what
Ray is told is its Python; what runs anything but Ray's own scripts gets the real one. Linux; elsewhere it is
this Python itself.

    warm_python.py SOCKET MODULE...        the process that is forked; ends with its standard input
    warm_python.py SOCKET -- SCRIPT ...    runs a script in a fork: exits with its status, ends it when ended
"""

import os
import sys

MODULES = ("aiohttp.web", "fsspec", "google.protobuf.json_format", "grpc.aio", "jsonschema", "pandas",
           "opentelemetry.sdk", "prometheus_client", "pyarrow.fs", "pyarrow.json", "pyarrow.parquet",
           "pydantic.v1", "requests", "safetensors.torch", "tokenizers", "torch", "torch._dynamo",
           "torch.distributed", "yaml")
"""What Ray imports, and a step of an optimizer."""
SCRIPTS = ("workers/setup_worker.py", "workers/default_worker.py", "dashboard/agent.py",
           "runtime_env/agent/main.py", "_private/log_monitor.py", "_private/monitor.py",
           "dashboard/dashboard.py")
SETS_UP, MANY = SCRIPTS[0], SCRIPTS[:2]
"""What makes a worker's environment and then is the worker, and of which a job has many processes."""
OF_RAY = ("ray._private.runtime_env.context", "ray._private.workers.default_worker", "ray.train.torch",
          "ray.tune")
"""What those import of Ray."""
LATE = ("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC",)
"""What no import of Ray reads, of the environment's names that are Ray's."""
FILES = (0, 1, 2)
LONGEST = 1 << 20


def warm_python(modules=MODULES):
    """A context: the path of an executable that stands for this Python, within the block."""
    import contextlib  # here, for the client starts often

    return contextlib.contextmanager(serving)(modules)


def serving(modules):
    """The path, while the server runs."""
    import shlex
    import shutil
    import subprocess
    import tempfile

    if sys.platform != "linux":
        yield sys.executable
        return
    folder = tempfile.mkdtemp(prefix="q")  # short, for the socket
    path, executable = os.path.join(folder, "socket"), os.path.join(folder, "python")
    with open(executable, "w") as script:
        command = shlex.join([sys.executable, "-SsE", __file__, path, "--"])
        script.write(f'#!/bin/sh\nexec {command} "$@"\n')
    os.chmod(executable, 0o700)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    server = subprocess.Popen([sys.executable, __file__, path, *modules], env=environment, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        if server.stdout.readline() != "ready\n":
            raise RuntimeError(f"cannot import {', '.join(modules)}")
        yield executable
    finally:
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def client(path, arguments):
    """Have the script run by the server at `path`; its exit status."""
    if arguments[:1] == ["-u"]:
        del arguments[0]
    if not arguments or not arguments[0].endswith(SCRIPTS):
        os.execv(sys.executable, [sys.executable, *arguments])
    import _socket as socket  # the other takes a third of the client's time
    import ctypes

    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: as Ray's workers end with their parent
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
    server.connect(path)
    environment = (f"{name}={os.environ[name]}" for name in os.environ)
    words = [os.getcwd(), str(len(arguments)), *arguments, *environment]
    files = b"".join(file.to_bytes(4, sys.byteorder) for file in FILES)
    server.sendmsg(["\0".join(words).encode(errors="surrogateescape")],
                   [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    status = server.recv(16)  # nothing: the server has ended
    return int(status) if status else 1


def task_of(message):
    """What a client's message asks for."""
    folder, count, *words = message.decode(errors="surrogateescape").split("\0")
    arguments, environment = words[:int(count)], words[int(count):]
    return {"folder": folder, "arguments": arguments,
            "environment": dict(word.split("=", 1) for word in environment)}


def serve(path, modules):
    """Fork for each that connects, until standard input ends."""
    import importlib
    import socket

    for module in modules:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)

    def accepted():
        connection, _ = listener.accept()
        message, files, *_ = socket.recv_fds(connection, LONGEST, len(FILES))
        return message, [connection.detach(), *files]

    forks = Forks(os.path.join(os.path.dirname(path), "python"))
    print("ready", flush=True)
    forks.serve({listener: accepted, sys.stdin: lambda: (None, ())}, forks.hand_over)


def nest(control, task, executable):
    """Import what reads this task's environment, then fork for each task that comes, until none can."""
    import socket

    enter(task)
    import_ray(OF_RAY)
    added = {name: value for name, value in os.environ.items() if task["environment"].get(name) != value}

    def handed_over():
        message, files, *_ = socket.recv_fds(control, LONGEST, 1 + len(FILES))
        return message or None, files

    forks = Forks(executable, added)
    forks.serve({control: handed_over}, forks.fork)


def import_ray(modules):
    """Import modules of Ray without a draw from the generator of its ids: all forks would draw the same."""
    import importlib
    import types

    actor = importlib.import_module("ray.actor")
    real = actor.ActorClassID
    actor.ActorClassID = types.SimpleNamespace(from_random=lambda: real(os.urandom(len(real.nil().binary()))))
    for module in modules:
        importlib.import_module(module)
    actor.ActorClassID = real
    read, write = os.pipe()
    for _ in range(2):
        if not (pid := os.fork()):
            os.write(write, actor.ActorClassID.from_random().binary())
            os._exit(0)
        os.waitpid(pid, 0)
    size = len(real.nil().binary())
    if os.read(read, size) == os.read(read, size):
        raise RuntimeError(f"an import of {', '.join(modules)} draws from Ray's generator")
    os.close(read)
    os.close(write)


class Forks:
    """Forks of this process, each of which runs a script for a client."""

    def __init__(self, executable, added=()):
        import gc
        import selectors
        import signal

        gc.freeze()
        self.executable, self.added, self.nests = executable, dict(added), {}
        self.running = {}  # pid -> the client's connection
        self.ready = selectors.PollSelector()  # which is no file
        self.woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self, sources, begin):
        """`begin` each task that comes from `sources` (what is waited for -> what then reads a message and
        its files), until there is no message."""
        import selectors
        import signal

        self.sources = sources
        for source in (*sources, self.woken):
            self.ready.register(source, selectors.EVENT_READ)
        while True:
            for source in [key.fileobj for key, _ in self.ready.select()]:
                if source in sources:
                    message, files = sources[source]()
                    if message is None:
                        for pid in self.running:
                            os.kill(pid, signal.SIGKILL)
                        return
                    begin(message, files)
                elif source is self.woken:
                    os.read(self.woken, 4096)
                    self.reap()
                elif source.fileno() >= 0:  # whoever waited for it was killed: so is it
                    pid = next(pid for pid, connection in self.running.items() if connection is source)
                    self.ready.unregister(source)
                    os.kill(pid, signal.SIGKILL)

    def hand_over(self, message, files):
        """Begin a task in a fork of the nest for its environment, if its script has one."""
        import socket

        if not message:  # the client was killed meanwhile
            os.close(files[0])
            return
        task = task_of(message)
        key = tuple(sorted((name, value) for name, value in task["environment"].items()
                           if name.startswith(("RAY_", "TUNE_")) and name not in LATE))
        if not task["arguments"][0].endswith(MANY) or ("RAY_JOB_ID", "ffffffff") in key:
            self.fork(message, files)  # alone, or of no job yet
            return
        if key not in self.nests:
            self.nests[key], theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.nests[key].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
            if not os.fork():
                self.leave([theirs.detach()], [max(FILES) + 1])
                nest(socket.socket(fileno=max(FILES) + 1), task, self.executable)
                os._exit(0)
            theirs.close()
        socket.send_fds(self.nests[key], [message], files)
        for file in files:
            os.close(file)

    def fork(self, message, files):
        """Begin a task in a fork of this process. The first of its files is the client's connection."""
        import selectors
        import socket

        pid = os.fork()
        if not pid:
            self.leave(files[1:], FILES)
            become(task_of(message), self.executable, self.added)
        for file in files[1:]:
            os.close(file)
        self.running[pid] = socket.socket(fileno=files[0])
        self.ready.register(self.running[pid], selectors.EVENT_READ)

    def leave(self, files, places):
        """In a fork: leave behind what it has of its parent, signals and all files but these, which get these
        numbers. No object may close a file that will have the number of one of its own."""
        import signal
        import socket

        for each in (*self.sources, *self.nests.values(), *self.running.values()):
            if isinstance(each, socket.socket):
                each.detach()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for file, place in zip(files, places, strict=True):
            os.dup2(file, place)
        os.closerange(max(places) + 1, 1 << 12)

    def reap(self):
        """Tell the exit statuses of those that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid not in self.running:  # a nest, which has told why
                continue
            connection, code = self.running.pop(pid), os.waitstatus_to_exitcode(status)
            if connection in {key.fileobj for key in self.ready.get_map().values()}:
                self.ready.unregister(connection)
                connection.send(str(code if code >= 0 else 128 - code).encode())
            connection.close()


def enter(task):
    """Have the environment and the path of a task."""
    os.environ.clear()
    os.environ.update(task["environment"])
    folders = task["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [os.path.dirname(task["arguments"][0]), *filter(None, folders), *INSTALLED]


def become(task, executable, added):
    """Run the script as a Python that had just started would, and end as it does. What it starts as Python
    is `executable`; `added`: what imports have added to the environment."""
    import runpy

    os.setsid()  # Ray kills whole groups of processes
    os.chdir(task["folder"])
    enter(task)
    os.environ.update(added)
    sys.stdin, sys.stdout, sys.stderr = (open(file, mode, buffering=1, closefd=False)
                                         for file, mode in zip(FILES, "rww", strict=True))
    sys.argv, sys.executable = task["arguments"], executable
    if sys.argv[0].endswith(SETS_UP):
        os.execvp = handing_on(executable, os.execvp)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def handing_on(executable, real):
    """`os.execvp` of the script that sets up the environment of a worker, which then runs a shell that runs
    the worker: this process is the client of that at once."""
    import shlex

    def execvp(file, args):
        words = shlex.split(args[-1])
        if words[:2] != ["exec", executable]:
            real(file, args)
        os._exit(client(os.path.join(os.path.dirname(executable), "socket"), words[2:]))

    return execvp


if __name__ == "__main__":
    INSTALLED = sys.path[1:]
    if sys.argv[2] == "--":
        sys.exit(client(sys.argv[1], sys.argv[3:]))
    serve(sys.argv[1], sys.argv[2:])
