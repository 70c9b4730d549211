"""The flags of `puredit serve`: those it shares with `puredit generate`, and its own."""

from collections.abc import Mapping
from typing import Any

import attrs
import click

from pure.cli.options import FLAGS
from pure.cli.parsing import Flag, FlagCommand
from pure.cli.refusals import refuse
from pure.cli.values import boolean, number, whole
from pure.engine.errors import Misuse
from pure.engine.unavailable import FLAGS as UNAVAILABLE
from pure.engine.unavailable import Later

__all__ = ["SERVE_FLAGS", "ServeCommand", "apply_serve_flags", "refuse_for_server"]

ONE_PROCESS = Later(
    "serve runs one process", "start one server per GPU with CUDA_VISIBLE_DEVICES and a --port of its own", (False, 1)
)
PARALLEL = ("num_gpus", "tp_size", "sp_degree", "ulysses_degree", "ring_degree", "cfg_parallel_size", "dp_size")
FLAGS_OF_SERVER: Mapping[str, Later] = {
    **UNAVAILABLE,
    **dict.fromkeys(PARALLEL, ONE_PROCESS),
    "enable_cfg_parallel": attrs.evolve(ONE_PROCESS, nothing=(False,)),
}
"""Flags that are not supported; the first ones are for several processes, and the server is one."""
NOT_SHARED = ("Image", "Output")
"""Groups of `puredit generate` that are set by requests, not by the server."""
OWN = ("--output-path", "--warmup", "--warmup-mode", "--warmup-steps", "--log-level", "--return-frames", "--profile")


def _own(*names: str, group: str = "Server", **options: Any) -> Flag:
    return Flag(names, group=group, **options)


def _server() -> tuple[Flag, ...]:
    return (
        _own("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all addresses."),
        _own("--port", type=whole(0, 65535), default=30000, show_default=True, help="Port; 0 takes a free one."),
        _own("--served-model-name", metavar="NAME", help="Name of the model for clients. [its path]"),
        _own("--model-id", metavar="NAME", help="Another name that clients may use."),
        _own(
            "--output-path",
            metavar="FOLDER",
            default="outputs/",
            show_default=True,
            help="Folder for results; with '' none are saved, and images are sent as b64_json only.",
        ),
        _own("--input-save-path", metavar="FOLDER", help="Folder for uploaded pictures. [not saved]"),
        _own(
            "--batching-max-size",
            type=whole(1),
            default=1,
            show_default=True,
            help="Largest number of results in one batch.",
        ),
        _own(
            "--batching-delay-ms",
            type=number(0),
            default=0.0,
            help="How long the first result waits for others with equal settings; later ones join between steps.  "
            "[default: 0]",
        ),
        _own("--enable-metrics", type=boolean(), default=False, help="Offer /metrics for Prometheus."),
        _own("--log-requests", type=boolean(), default=False, help="Log one line per request."),
        _own(
            "--allow-origin",
            multiple=True,
            metavar="ORIGIN ...",
            help="Origins whose web pages may use the server (CORS); * for all.",
        ),
        _own(
            "--http-graceful-shutdown-timeout",
            type=number(0),
            default=10.0,
            show_default=True,
            help="Seconds that running requests have to finish when the server is stopped.",
        ),
        _own(
            "--warmup-mode",
            type=click.Choice(["off", "request", "server"]),
            help="server: before the server accepts requests; request: before the first one.  [default: server]",
        ),
        _own("--warmup", type=boolean(), help="The same as --warmup-mode request; false: off."),
        _own("--warmup-steps", type=whole(1), default=1, show_default=True, help="Steps of the warm-up."),
        _own(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            help="warning and error hide notes.",
        ),
    )


def _shared() -> tuple[Flag, ...]:
    return tuple(flag for flag in FLAGS if flag.group not in NOT_SHARED and not set(flag.opts) & set(OWN))


SERVE_FLAGS: tuple[Flag, ...] = (*_server(), *_shared())
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


def apply_serve_flags(command: Any) -> Any:
    """Give a command function all of `SERVE_FLAGS`."""
    command.__click_params__ = [*SERVE_FLAGS[::-1], *getattr(command, "__click_params__", [])]
    return command


def refuse_for_server(values: Mapping[str, Any]) -> None:
    """Check the flags that a server does not support.

    Raises:
        Misuse: lists every flag that asks for something that would not happen.
    """
    refuse(values, {name: later for name, later in FLAGS_OF_SERVER.items() if name != "warmup_mode"})
