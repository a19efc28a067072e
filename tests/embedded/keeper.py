"""`python -m tests.embedded.keeper DIR`: a supervisor with real servers and a made-up child.

It prints "ready" when all are up, ends like `luthier serve`, and can be killed like it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from embedded.logs import Console
from embedded.postgres import Postgres
from embedded.process import Command
from embedded.supervisor import StopPhase, Supervisor
from embedded.valkey import Valkey

# As the parts do: it ends when its stdin does.
CHILD = "import os, sys\nwhile os.read(0, 1): pass\nos._exit(1)"


def main(directory: Path) -> None:
    console = Console()
    postgres, valkey = Postgres(directory / "postgres"), Valkey(directory / "valkey")
    (directory / "logs").mkdir(exist_ok=True)
    supervisor = Supervisor(directory / "logs", console)
    with supervisor.signals():
        try:
            for server in (postgres, valkey):
                server.prepare()
                supervisor.start(server.command(), StopPhase.SERVERS)
            child = Command("child", [sys.executable, "-c", CHILD, str(directory)])
            supervisor.start(child, StopPhase.CLIENTS)
            for ready in (postgres.is_ready, valkey.is_ready):
                supervisor.wait_until(ready, "the servers", timeout_s=30)
            console.say(f"ready {postgres.url()} {valkey.url()}")
            supervisor.run()
        finally:
            supervisor.stop()
            postgres.clean_up()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
