"""The flags of `puredit serve`: those it shares with `puredit generate`, and its own."""

import click

from pure.cli.options import FLAGS, flag, group
from pure.cli.parsing import Flag, FlagCommand
from pure.cli.values import boolean, number, whole
from pure.engine.errors import Misuse

__all__ = ["SERVE_FLAGS", "ServeCommand"]

NOT_SHARED = ("Image", "Output")
"""Groups of `puredit generate` that are set by requests, not by the server."""
OWN = ("--output-path", "--warmup", "--warmup-mode", "--warmup-steps", "--log-level", "--return-frames", "--profile")


SERVER = group(
    "Server",
    flag("--host", "TEXT", "Address to listen on; 0.0.0.0 for all addresses.", shown="127.0.0.1"),
    flag("--port", whole(0, 65535), "Port; 0 takes a free one.", shown=30000),
    flag("--served-model-name", "NAME", "Name of the model for clients. [its path]"),
    flag("--model-id", "NAME", "Another name that clients may use."),
    flag(
        "--output-path",
        "FOLDER",
        "Folder for results; with '' none are saved, and images are sent as b64_json only.",
        shown="outputs/",
    ),
    flag("--input-save-path", "FOLDER", "Folder for uploaded pictures. [not saved]"),
    flag("--batching-max-size", whole(1, 1024), "Largest number of results in one batch.", shown=1),
    flag(
        "--batching-delay-ms",
        number(0),
        "How long the first result waits for others with equal settings; later ones join between steps.  [default: 0]",
        default=0.0,
    ),
    flag(
        "--max-queued-requests",
        whole(1, 100_000),
        "Requests that may wait; more are refused with status 503.",
        shown=1000,
    ),
    flag("--enable-metrics", boolean(), "Offer /metrics for Prometheus.", default=False),
    flag("--log-requests", boolean(), "Log one line per request.", default=False),
    flag("--allow-origin", "ORIGIN ...", "Origins whose web pages may use the server (CORS); * for all."),
    flag(
        "--http-graceful-shutdown-timeout",
        number(0),
        "Seconds that running requests have to finish when the server is stopped.",
        shown=10.0,
    ),
    flag(
        "--warmup-mode",
        ("off", "request", "server"),
        "server: before the server accepts requests; request: before the first one.  [default: server]",
    ),
    flag("--warmup", boolean(), "The same as --warmup-mode request; false: off."),
    flag("--warmup-steps", whole(1, 10_000), "Steps of the warm-up.", shown=1),
    flag("--log-level", ("debug", "info", "warning", "error"), "warning and error hide notes.", shown="info"),
)
SHARED = tuple(each for each in FLAGS if each.group not in NOT_SHARED and not set(each.opts) & set(OWN))
SERVE_FLAGS: tuple[Flag, ...] = (*SERVER, *SHARED)
"""All of them, in the order of the help text."""


class ServeCommand(FlagCommand):
    """A command that takes the model as its first word too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn a first word that is no flag into `--model-path`."""
        if args and not args[0].startswith("-"):
            if any(word.partition("=")[0] == "--model-path" for word in args):
                raise Misuse(f"{args[0]} and --model-path both name the model; give one of them")
            args = ["--model-path", *args]
        return super().parse_args(ctx, args)
