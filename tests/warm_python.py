"""A Python that has imported what Ray's processes import, and is forked for each of them.

A cluster is half a dozen processes in Python, a worker group as many more, and all that most of them do
before they are of use is to import Ray, torch and what these need: seconds of CPU each. Here they run the
same scripts with the same arguments, environment, folder and open files, in a fork of one process that has
imported those libraries already (all but Ray itself, and none of our code). `with warm_python() as python`
gives the path of what Ray is told is its Python; what runs anything but Ray's own scripts gets the real one.
Linux; elsewhere that is this Python itself.

    warm_python.py SOCKET MODULE...        the process that is forked; ends with its standard input
    warm_python.py SOCKET -- SCRIPT ...    runs a script in a fork: exits with its status, ends it when ended
"""

import contextlib
import json
import os
import signal
import socket
import sys

MODULES = ("aiohttp.web", "fsspec", "google.protobuf.json_format", "grpc.aio", "jsonschema", "pandas",
           "opentelemetry.sdk", "prometheus_client", "pyarrow.fs", "pyarrow.parquet", "pydantic", "requests",
           "safetensors.torch", "tokenizers", "torch", "torch.distributed", "yaml")
"""What Ray imports: Ray itself reads its job from the environment when it is imported."""
SCRIPTS = ("workers/setup_worker.py", "workers/default_worker.py", "dashboard/agent.py",
           "runtime_env/agent/main.py", "_private/log_monitor.py", "_private/monitor.py",
           "dashboard/dashboard.py")
FILES = (0, 1, 2)
LONGEST = 1 << 20


@contextlib.contextmanager
def warm_python(modules=MODULES):
    """Path of an executable that stands for this Python, within the block."""
    import shlex  # here, for the client starts often
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
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: as Ray's workers end with their parent
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
        server.connect(path)
        task = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(server, [json.dumps(task).encode()], FILES)
        status = server.recv(16)  # nothing: the server has ended
        return int(status) if status else 1


def serve(path, modules):
    """Fork for each that connects, until standard input ends."""
    import gc
    import importlib
    import selectors

    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    running = {}  # pid -> connection
    ready = selectors.DefaultSelector()
    for source in (listener, woken, sys.stdin):
        ready.register(source, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for source in [key.fileobj for key, _ in ready.select()]:
            if source is sys.stdin:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                return
            if source is woken:
                os.read(woken, 4096)
                reap(running, ready)
            elif source is listener:
                connection, _ = listener.accept()
                message, files, *_ = socket.recv_fds(connection, LONGEST, len(FILES))
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    become(json.loads(message), files, os.path.join(os.path.dirname(path), "python"))
                for file in files:
                    os.close(file)
                running[pid] = connection
                ready.register(connection, selectors.EVENT_READ, pid)
            elif source.fileno() >= 0:  # whoever waited for it was killed: so is it
                pid = next(pid for pid, connection in running.items() if connection is source)
                ready.unregister(source)
                os.kill(pid, signal.SIGKILL)


def reap(running, ready):
    """Tell the exit statuses of those that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        connection, code = running.pop(pid), os.waitstatus_to_exitcode(status)
        if connection in {key.fileobj for key in ready.get_map().values()}:
            ready.unregister(connection)
            connection.send(str(code if code >= 0 else 128 - code).encode())
        connection.close()


def become(task, files, executable):
    """Run the script as a Python that had just started would, and end as it does. What it starts as Python
    is `executable`."""
    import runpy

    for here, wanted in zip(files, FILES, strict=True):
        os.dup2(here, wanted)
    os.closerange(max(FILES) + 1, 1 << 12)
    os.setsid()  # Ray kills whole groups of processes
    os.environ.clear()
    os.environ.update(task["environment"])
    os.chdir(task["folder"])
    sys.stdin, sys.stdout, sys.stderr = (open(file, mode, buffering=1, closefd=False)
                                         for file, mode in zip(FILES, "rww", strict=True))
    sys.argv, sys.executable = task["arguments"], executable
    folders = task["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [os.path.dirname(sys.argv[0]), *filter(None, folders), *sys.path[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    if sys.argv[2] == "--":
        sys.exit(client(sys.argv[1], sys.argv[3:]))
    serve(sys.argv[1], sys.argv[2:])
