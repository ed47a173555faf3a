"""Python imports this first. A server of preloaded modules goes on as a fork that has PyTorch already (../forks.py)."""

import os
import sys

if sys.orig_argv[1:4] == ["-m", "pipeline.runtime.fork_server", "serve"]:
    import json
    import socket

    listener = int(sys.orig_argv[4])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["TESTS_MODELS_SOCKET"])
        socket.send_fds(connection, [b" "], [0, 1, 2, listener])
        request = [*sys.orig_argv[2:], listener, os.path.realpath("."), dict(os.environ)]
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.recv(1)  # nothing is sent: the other end is closed when the fork has ended
    os._exit(0)
