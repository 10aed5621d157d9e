"""The command `raid` without its seconds of imports: for each, a process that has done them is forked.

`python raid_server.py serve SOCKET` is that process, `python -SE raid_server.py ask SOCKET ...` the command.
"""

import importlib
import json
import os
import socket
import sys
import traceback
from typing import NoReturn

IMPORTED = [
    f"raid.methods.{method}.{part}" for method in ("icsr", "mar", "slsr") for part in ("recipe", "plan")
]


def serve(path: str) -> None:
    """Run one command after the other; `path` is there when it can."""
    for name in [*IMPORTED, "torchvision.models"]:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"{path}_")
        listening.listen()
        os.rename(f"{path}_", path)
        while True:
            asked, _ = listening.accept()
            told, streams, _, _ = socket.recv_fds(asked, 2**20, 3)
            child = os.fork()
            if child == 0:
                run(streams, *json.loads(told))
            for stream in streams:
                os.close(stream)
            _, status = os.waitpid(child, 0)
            asked.send(str(os.waitstatus_to_exitcode(status)).encode())
            asked.close()


def run(streams: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Be the command, as if it had been started in `folder`."""
    from raid import cli

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        code = cli.main(arguments)
    except SystemExit as end:  # of argparse
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take the libraries down takes as long as to import them


def ask(path: str, arguments: list[str]) -> int:
    """Have the server run a command with this process's folder, environment and streams."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(path)
        told = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [told], [0, 1, 2])
        return int(server.recv(16))


if __name__ == "__main__":
    _, what, path, *arguments = sys.argv
    sys.exit(serve(path) if what == "serve" else ask(path, arguments))
