"""`led-agent serve`: a search behind OpenAI's chat completions."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from led_agent.cli.base import print_json, stderr
from led_agent.cli.options import (
    BUDGET,
    MACHINE,
    OUTPUT,
    AsJson,
    ClusterName,
    ClusterWait,
    Debug,
    DecodingName,
    Device,
    Dtype,
    MaxTokens,
    Model,
    Quiet,
    StrategyName,
    VerifierNames,
)
from led_agent.errors import UsageError, explain

if TYPE_CHECKING:
    from led_agent.serving.plan import Plan

__all__ = ["serve"]

ACCESS = "Access"
_SMALL, _LARGE = 64, 16  # slots


def serve(
    model: Model = None,
    strategy: StrategyName = None,
    decoding: DecodingName = None,
    verifier: VerifierNames = None,
    max_tokens: MaxTokens = 512,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; others than this machine's need a key.", rich_help_panel=ACCESS),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 is a free one.", rich_help_panel=ACCESS)
    ] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="A key that clients must give; may be repeated. Better in LED_AGENT_SERVE_API_KEY or a "
            "file: others can read a command line.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of keys, one a line.", rich_help_panel=ACCESS)
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve other machines without a key.", rich_help_panel=ACCESS)
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A web page's origin that may ask, too; may be repeated.", rich_help_panel=ACCESS
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="Let clients have programs run in the sandbox (unit_tests).", rich_help_panel=ACCESS
        ),
    ] = False,
    max_waiting: Annotated[
        int,
        typer.Option(min=1, help="Requests that wait to be begun; more are refused (429).", rich_help_panel=BUDGET),
    ] = 256,
    max_seconds: Annotated[
        float, typer.Option(help="Seconds a request, at most, once it is begun.", rich_help_panel=BUDGET)
    ] = 300.0,
    max_branches: Annotated[
        int, typer.Option(min=1, help="Branches a request, at most.", rich_help_panel=BUDGET)
    ] = 256,
    token_limit: Annotated[
        int, typer.Option(min=1, help="New tokens a branch, at most, whatever is asked for.", rich_help_panel=BUDGET)
    ] = 8192,
    max_body: Annotated[
        int, typer.Option(min=1, metavar="BYTES", help="Size of a request, at most.", rich_help_panel=BUDGET)
    ] = 1_000_000,
    kept: Annotated[
        int, typer.Option(min=1, help="Finished runs whose trees can be asked for.", rich_help_panel=BUDGET)
    ] = 128,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep every event of every run here.", rich_help_panel=OUTPUT)
    ] = None,
    shutdown_seconds: Annotated[
        float, typer.Option(min=0, help="How long runs may go on after Ctrl-C or SIGTERM.", rich_help_panel=MACHINE)
    ] = 10.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Annotated[
        int | None,
        typer.Option(
            min=1, help="Branches that grow at a time.", rich_help_panel=MACHINE,
            show_default="64 for the embedded model, else 16",
        ),
    ] = None,
    cluster: ClusterName = None,
    cluster_wait: ClusterWait = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Serve searches over HTTP, as OpenAI's clients ask for completions.

    Each request is a search: branches grow, verifiers judge them, and the best answer is the reply. Requests share the
    model's slots, and wait in line where there are too many; a client that leaves ends its search. There is a page to
    search with at /, trees under /v1/runs, figures for Prometheus under /metrics. Clients name strategies and verifiers
    of led_agent; yours are named here, with --verifier and --strategy. Ctrl-C lets what is on come to its end.
    """
    _check_libraries()
    from led_agent.models import is_embedded
    from led_agent.serving.limits import Limits
    from led_agent.serving.plan import Plan, read_keys
    from led_agent.serving.run import LOOPBACK_HOSTS, is_loopback

    keys = read_keys(api_key or (), api_keys_file)
    own = is_loopback(host)
    if not own and not keys and not no_auth:
        raise UsageError(
            f"--host {host} can be reached from other machines, and no key is asked for; give --api-keys-file FILE, or "
            "--no-auth where whoever reaches it may search"
        )
    try:
        limits = Limits(
            body_bytes=max_body, max_tokens=token_limit, seconds=max_seconds, branches=max_branches,
            waiting=max_waiting, kept=kept, shutdown_seconds=shutdown_seconds,
        )  # fmt: skip
    except ValidationError as error:
        raise UsageError(explain(error)) from error
    plan = Plan(
        model=model, strategy=strategy, decoding=decoding, verifiers=tuple(verifier or ()), max_tokens=max_tokens,
        code=allow_code, limits=limits, keys=keys, hosts=LOOPBACK_HOSTS if own else (),
        origins=tuple(cors_origin or ()), save=save, device=device, dtype=dtype,
        slots=slots or (_SMALL if is_embedded(model) else _LARGE),
    )  # fmt: skip
    if cluster is None:
        if cluster_wait is not None:
            raise UsageError("--cluster-wait is for a server on a cluster; give --cluster, too")
        _here(plan, host, port, as_json, quiet)
    else:
        _on_cluster(plan, cluster, cluster_wait, host, port, as_json, quiet)


def _check_libraries() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"`led-agent serve` needs {error.name}: pip install 'led-agent[serve]'") from error


def _here(plan: Plan, host: str, port: int, as_json: bool, quiet: bool) -> None:
    """Serve in this process."""
    from dataclasses import replace

    from led_agent.serving.app import create_app
    from led_agent.serving.run import listen, run

    with listen(host, port) as made:  # a port that is taken is told before a model is loaded
        setup = plan.setup()
        with contextlib.nullcontext() if quiet else stderr.status("loading the model"):
            loaded = setup.load()
        app = create_app(replace(setup, load=lambda: loaded))
        ready = _teller(plan, host, made.getsockname()[1], as_json, quiet)
        # uvicorn takes both signals, and raises them again when all is done: that is the ordinary end.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                run(app, made, shutdown_seconds=plan.limits.shutdown_seconds, ready=ready)
        finally:
            loaded.close()
            if setup.journal is not None:
                setup.journal.close()


def _on_cluster(plan: Plan, cluster: str, wait: float | None, host: str, port: int, as_json: bool, quiet: bool) -> None:
    """Serve from the cluster, until this process is told to end."""
    from dataclasses import replace

    from led_agent.cluster.plan import as_cluster

    if plan.save is not None:
        raise UsageError("--save writes where the search runs, which on a cluster may be any node; leave it out")
    if port == 0:
        raise UsageError("--port 0 can't be had on a cluster: say which one")
    where = as_cluster(cluster, wait=wait)
    try:
        from led_agent.cluster.serving import serve_on_ray
    except ImportError as error:
        raise UsageError(f"a server on a cluster needs {error.name}: pip install 'ray[serve]'") from error
    tell = _teller(plan, host, port, as_json, quiet)
    status = stderr.status("starting on the cluster")

    def until() -> None:
        status.stop()
        tell()
        _wait_for_signal()

    if not quiet:
        status.start()
    try:
        serve_on_ray(replace(plan, cluster=where), where, host, port, until=until)
    finally:
        status.stop()


def _wait_for_signal() -> None:
    """Until SIGINT or SIGTERM. Ray has a handler of its own, which would leave the deployment as it is."""
    stop = threading.Event()
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _teller(plan: Plan, host: str, port: int, as_json: bool, quiet: bool) -> Callable[[], None]:
    """Says where it answers, once it does."""
    from led_agent.models import default_model

    name = "localhost" if host in ("127.0.0.1", "::1") else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{port}"

    def tell() -> None:
        if as_json:
            print_json({"url": url, "model": plan.model or default_model(), "key_needed": bool(plan.keys)})
        elif not quiet:
            told = (
                f"serving {plan.model or default_model()} at {url} (a page), {url}/v1 (OpenAI's clients); Ctrl-C ends"
            )
            stderr.print(Text(told), soft_wrap=True)

    return tell
