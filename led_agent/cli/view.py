"""`led-agent view`: a run in the browser, while it goes on."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from led_agent.cli.base import print_text, stderr
from led_agent.cli.options import MACHINE, OUTPUT, Debug
from led_agent.errors import UsageError

__all__ = ["view"]


def view(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a file made by --save; it need not be there yet.")],
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; by default only this machine can connect.", rich_help_panel=MACHINE
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 is a free one.", rich_help_panel=MACHINE)
    ] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open it in the browser.", rich_help_panel=OUTPUT)
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Whose tokenizer texts are shaded with, where the run doesn't name its model.", rich_help_panel=OUTPUT
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Watch a run's trees grow in the browser.

    The page's address is printed, and the page follows what is written into the run's journal, whoever writes it. The
    run need not have begun, and may have ended. Ctrl-C ends the page, not the run.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"`led-agent view` needs {error.name}: pip install 'led-agent[serve]'") from error
    from led_agent.pages.live import Board
    from led_agent.pages.shading import Shading
    from led_agent.pages.watching import serve
    from led_agent.serving.run import listen

    board = Board(run, Shading(model))
    first = board.read()  # what is no journal is refused before anything is begun
    with listen(host, port) as made:
        number = made.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{number}/"
        print_text(address)
        if first is None:
            stderr.print(Text(f"waiting for {run} to begin"), soft_wrap=True)
        with suppress(KeyboardInterrupt):  # the ordinary end
            serve(board, made, host, ready=(lambda: webbrowser.open(address)) if open_browser else None)
