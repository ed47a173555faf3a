"""Python imports this first. A server of preloaded modules, or an early check, goes on as a fork that has PyTorch
already (../forks.py)."""

import os
import sys

SERVER, CHECK = ["pipeline.runtime.fork_server", "serve"], ["pipeline.stages.early_checks"]

if sys.orig_argv[1:2] == ["-m"] and (sys.orig_argv[2:4] == SERVER or sys.orig_argv[2:3] == CHECK):
    import json
    import socket

    streams = [0, 1, 2, *map(int, sys.orig_argv[4:] if sys.orig_argv[2:4] == SERVER else [])]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["TESTS_MODELS_SOCKET"])
        socket.send_fds(connection, [b" "], streams)
        request = [*sys.orig_argv[2:], streams, os.path.realpath("."), dict(os.environ)]
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.recv(1)  # nothing is sent: the other end is closed when the fork has ended
    os._exit(0)
