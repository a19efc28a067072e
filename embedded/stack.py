"""The whole service on one machine: what `luthier serve` runs.

This process starts and watches all others, restarts what dies or answers nobody any more, and does no
work of its own:

    postgres, valkey     unless LUTHIER_DATABASE_URL, LUTHIER_BROKER_URL name others
    serving-<base>       one inference server for each base
    api                  what users talk to
    worker               claims jobs, runs the trainer
    errands              runs batches, delivers webhooks

All of them end with this process, however it ends: each holds a pipe that the system closes.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from foundation import leash
from foundation.errors import LuthierError
from foundation.settings import Settings, without_secrets
from serving.settings import ServingSettings
from storage.models.base_models import Catalogue

from . import cores, data_dir, ports
from .liveness import HealthPage
from .logs import Console
from .postgres import Postgres
from .process import CannotStart, Command
from .supervisor import AskedToStop, StopPhase, Supervisor
from .valkey import Valkey

DEFAULT_BASE = "smollm2-135m-instruct"
_SERVER_START_S = 60.0
# Chats answer at once while a job trains: the trainer takes what the others leave.
_WORKER_NICENESS = 5
# The last server was killed: its children may need this long to let go of the port.
_PORT_PATIENCE_S = 8.0


@dataclass(frozen=True)
class Options:
    """What `luthier serve` was asked for."""

    data_dir: Path
    host: str
    port: int
    bases: tuple[str, ...]
    """Ids of the bases that this stack serves by itself."""
    with_worker: bool
    settings: Settings


def serve(
    data_dir: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    aliases: Mapping[str, str] | None = None,
    bases: Sequence[str] = (),
    *,
    with_worker: bool = True,
) -> int:
    """Run until SIGTERM or Ctrl-C; returns the exit status, 1 after one line on what is wrong.

    `port` 0 takes a free one. `bases` are ids or aliases; none means the default base. The bases that
    aliases stand for are served, too.
    """
    try:
        settings = _settings(data_dir.absolute(), aliases or {})
        options = Options(
            data_dir=settings.data_dir,
            host=host,
            port=port or ports.free(host),
            bases=_bases(settings, bases),
            with_worker=with_worker,
            settings=settings,
        )
        _run(options, Console())
    except (LuthierError, OSError) as error:  # an OSError is a full disk, a missing right
        sys.stderr.write(f"luthier: {error}\n")
        return 1
    return 0


def _settings(data: Path, aliases: Mapping[str, str]) -> Settings:
    """The environment's, with absolute paths and the command line's aliases, which win."""
    joined = [os.environ.get("LUTHIER_ALIASES", ""), _pairs(aliases.items())]
    given = {"LUTHIER_DATA_DIR": str(data), "LUTHIER_ALIASES": ",".join(filter(None, joined))}
    settings = Settings.from_env({**os.environ, **given})
    # Read by the inference servers; said here, a mistake is one line and not a server that starts again and again.
    ServingSettings.from_env()
    return settings.replace(bases_dir=settings.bases_dir.absolute())


def _bases(settings: Settings, names: Sequence[str]) -> tuple[str, ...]:
    """Ids, each once, without those that LUTHIER_BACKENDS already provides for."""
    catalogue = Catalogue.load(settings.data_dir, settings.aliases)
    ids = []
    for name in [*(names or [DEFAULT_BASE]), *settings.aliases.values()]:
        base = catalogue.get(name)
        if base is None:
            known = ", ".join(base.id for base in catalogue.all())
            raise CannotStart(f"there is no base called {name!r}; there are: {known}")
        ids.append(base.id)
    return tuple(base for base in dict.fromkeys(ids) if base not in settings.backends)


def _run(options: Options, console: Console) -> None:
    with data_dir.locked(options.data_dir) as was_killed:
        patience_s = _PORT_PATIENCE_S if was_killed else 0.0
        ports.check_free(options.host, options.port, patience_s)
        log_dir = options.data_dir / "logs"
        log_dir.mkdir(mode=0o700, exist_ok=True)
        supervisor = Supervisor(log_dir, console)
        stack = _Stack(options, supervisor, console)
        with supervisor.signals():
            try:
                stack.start()
                supervisor.run()
            except AskedToStop:
                console.say("Stopping before everything had started.")
            finally:
                supervisor.stop()
                stack.clean_up()


class _Stack:
    def __init__(self, options: Options, supervisor: Supervisor, console: Console) -> None:
        self._options = options
        self._supervisor = supervisor
        self._console = console
        data, settings = options.data_dir, options.settings
        self._postgres = None if settings.database_url else Postgres(data / "postgres")
        self._valkey = None if settings.broker_url else Valkey(data / "valkey")
        self._ports = {base: ports.free() for base in options.bases}

    def start(self) -> None:
        """Return when the api says it is ready. Raises CannotStart, AskedToStop."""
        options, supervisor = self._options, self._supervisor
        self._console.hears_children = False
        self._console.say(f"Starting. Data and logs are in {options.data_dir}")
        for server in (self._postgres, self._valkey):
            if server is not None:
                server.prepare()
                own = server.command()
                # So that an operator, and a test, can tell whose process it is.
                marked = {**(own.env or {}), "LUTHIER_DATA_DIR": str(options.data_dir)}
                supervisor.start(replace(own, env=marked), StopPhase.SERVERS)
        env = self._environment()
        without = without_secrets(env)
        for base, port in self._ports.items():
            argv = ["serving", "--base", base, "--host", "127.0.0.1", "--port", str(port)]
            supervisor.start(
                _python(f"serving-{base}", argv, without),
                StopPhase.ENGINES,
                # Unlike /healthz it says when the weights are loaded; it asks nobody else either.
                page=HealthPage("127.0.0.1", port, "/readyz"),
            )
        for server in (self._postgres, self._valkey):
            if server is not None:
                supervisor.wait_until(
                    server.is_ready, type(server).__name__, timeout_s=_SERVER_START_S
                )
        supervisor.run_to_end(_python("migrations", ["migrations"], env))
        keys = {name: os.environ[name] for name in _KEYS if name in os.environ}
        supervisor.run_to_end(
            _python("first_keys", ["storage.organization.first_keys"], {**env, **keys})
        )
        argv = ["api", "--host", options.host, "--port", str(options.port)]
        page = HealthPage(self._reachable_host(), options.port, "/healthz")
        supervisor.start(_python("api", argv, env), StopPhase.CLIENTS, page=page)
        supervisor.wait_until(self._is_ready, "the api and the inference servers")
        if options.with_worker:
            self._start_workers(env)
        self._console.hears_children = True
        self._server_file.write_text(json.dumps({"base_url": f"{self._url()}/v1"}) + "\n")
        self._console.say(
            f"Luthier is ready: base_url={self._url()}/v1, the api key is in "
            f"{options.data_dir / 'api_key'}"
        )
        self._console.say(f"The page: {self._url()}/dashboard")

    def _start_workers(self, env: Mapping[str, str]) -> None:
        """They keep nobody from being served, so what they import does not delay what does."""
        for name in ("worker", "errands"):
            command = _python(name, [name], without_secrets(env) if name == "worker" else env)
            self._supervisor.start(command, StopPhase.CLIENTS, niceness=_WORKER_NICENESS)

    @property
    def _server_file(self) -> Path:
        """Says where the server answers, to commands that are given the data directory alone."""
        return self._options.data_dir / "server.json"

    def clean_up(self) -> None:
        self._server_file.unlink(missing_ok=True)
        if self._postgres is not None:
            self._postgres.clean_up()

    def _environment(self) -> dict[str, str]:
        """What the parts are told; the operator's own variables pass through."""
        settings, data = self._options.settings, self._options.data_dir
        backends = [(base, url) for base, urls in settings.backends.items() for url in urls]
        backends += [(base, f"http://127.0.0.1:{port}") for base, port in self._ports.items()]
        num_threads = str(cores.available())
        database_url = self._postgres.url() if self._postgres else settings.database_url
        broker_url = self._valkey.url() if self._valkey else settings.broker_url
        return {
            **{name: value for name, value in os.environ.items() if name not in _KEYS},
            "LUTHIER_DATA_DIR": str(data),
            "LUTHIER_BASES_DIR": str(settings.bases_dir),
            "LUTHIER_DATABASE_URL": database_url,
            "LUTHIER_BROKER_URL": broker_url,
            "LUTHIER_BLOB_URL": settings.blob_url or (data / "blobs").as_uri(),
            "LUTHIER_ALIASES": _pairs(settings.aliases.items()),
            "LUTHIER_BACKENDS": _pairs(backends),
            "LUTHIER_API_URL": self._url(),
            "LUTHIER_INTERNAL_KEY": settings.internal_key or secrets.token_urlsafe(32),
            leash.ENV: "1",
            # Nothing is downloaded, and nothing phones home, without being asked to.
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", num_threads),
            # Trainer and inference share the cores. A thread that waits by spinning holds one that
            # the other could use: on two busy cores small steps took ten times as long.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
            # But going to sleep and being woken costs more than the 0.1 ms that these rounds take, so
            # GNU's OpenMP, which knows this variable, tries that long first.
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000"),
            # A folder that happens to be called `api` where the server was started is not ours.
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _is_ready(self) -> bool:
        api = HTTPConnection(self._reachable_host(), self._options.port, timeout=1)
        try:
            api.request("GET", "/readyz")
            return api.getresponse().status == 200
        except (OSError, HTTPException):  # not there yet, or in the middle of something
            return False
        finally:
            api.close()

    def _reachable_host(self) -> str:
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
        return anywhere.get(self._options.host, self._options.host)

    def _url(self) -> str:
        host = self._reachable_host()
        return f"http://{f'[{host}]' if ':' in host else host}:{self._options.port}"


# Told to nobody but the one who writes them into the database.
_KEYS = ("LUTHIER_API_KEY", "LUTHIER_ADMIN_KEY")


def _python(name: str, argv: Sequence[str], env: Mapping[str, str]) -> Command:
    return Command(name, [sys.executable, "-m", *argv], env)


def _pairs(items: Iterable[tuple[str, str]]) -> str:
    return ",".join(f"{name}={value}" for name, value in items)
