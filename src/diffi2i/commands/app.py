"""`diffi2i app`: a page in the browser to try finished runs. What it asks for is done in `desk`."""

import html
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial, wraps
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import getproxies

from diffi2i.commands.desk import OWN, SAMPLERS, Desk
from diffi2i.config.commands import AppConfig
from diffi2i.data.sources import photos
from diffi2i.errors import UserError
from diffi2i.run.hardware import prepare

TILES = [("as memory asks for", 0), *((f"{side} pixels", side) for side in (128, 256, 512))]
KEPT = 24 * 3600
"""Seconds after which the page forgets a picture."""

Jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]
"""Work for the main thread, and where its result is awaited."""


def app(config: AppConfig) -> None:
    """Shows the page until Ctrl-C. All that it keeps lies in a temporary folder.

    Raises:
        UserError: Gradio is missing, the port is taken, or a run cannot be used.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install 'diffi2i[app]'")
    prepare(config.trainer)
    examples = [str(item.target) for split in ("val", "train") for item in photos(split)]
    with TemporaryDirectory(prefix="diffi2i-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/page"
        # Gradio asks the page itself whether it is there, which a proxy cannot know.
        os.environ["no_proxy"] = f"127.0.0.1,localhost,{getproxies().get('no', '')}"
        jobs: Jobs = SimpleQueue()
        page = page_of(Desk(config, Path(folder)), jobs, examples)
        try:
            print(f"{launched(page, config, examples)} shows the page; Ctrl-C ends it", flush=True)
            serve(jobs)
        finally:
            page.close(verbose=False)


def launched(page: Any, config: AppConfig, examples: list[str]) -> str:
    """Starts the server, in threads of its own, and gives its address. Raises `UserError`: the port is taken."""
    import gradio

    # Fonts that are there: the page must ask nobody for others.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, public = page.launch(
            server_port=config.port, share=config.share, theme=theme, footer_links=[], run_history=False,
            allowed_paths=[str(Path(examples[0]).parent)], ssr_mode=False, prevent_thread_lock=True, quiet=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port={config.port} cannot be had: write another") from error
    return str(public or address)


def serve(jobs: Jobs) -> None:
    """Does one after the other, for ever. In the main thread, where Ctrl-C can interrupt it."""
    while True:
        future, work = jobs.get()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)


def page_of(desk: Desk, jobs: Jobs, examples: list[str]) -> Any:
    """The page, as Gradio's `Blocks`."""
    import gradio as gr

    first = next(iter(desk.runs))
    with gr.Blocks(title="DiffI2I", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown("# DiffI2I\nChoose a picture, or one of the examples, and restore it.")
        with gr.Row():
            with gr.Column(scale=2):
                run = gr.Dropdown([(each.name, key) for key, each in desk.runs.items()], value=first, label="Run")
                file = gr.File(label="Picture", height=140)
                picture = gr.Image(show_label=False, interactive=False, visible=False, buttons=[])
                with gr.Column(visible=False) as holes:
                    painted = gr.ImageEditor(
                        label="Paint the hole", sources=(), transforms=(), layers=False,
                        brush=gr.Brush(colors=["#e8473f"], color_mode="fixed"),
                    )  # fmt: skip
                    mask = gr.File(label="Or a file: white = hole, black = kept", height=140)
                button = gr.Button("Restore", variant="primary")
                with gr.Accordion("Settings", open=False):
                    with gr.Row(visible=desk.runs[first].steps > 0) as sampling:
                        sampler = gr.Dropdown([OWN, *SAMPLERS], value=OWN, label="Sampler")
                        steps = gr.Number(desk.runs[first].steps, precision=0, label="Steps")
                    with gr.Row():
                        tile = gr.Dropdown(TILES, value=0, label="Parts of a large picture")
                        tiling = gr.Radio(["exact", "local"], value="exact", label="Tiling")
                    seed = gr.Number(0, precision=0, label="Seed")
                thumbnails = gr.Dataset(
                    label="Examples", components=[gr.Image(visible=False)], samples=[[each] for each in examples],
                    samples_per_page=20,
                )  # fmt: skip
            with gr.Column(scale=3):
                slider = gr.ImageSlider(label="Before and after", max_height=700, buttons=["fullscreen"])
                said = gr.Textbox(show_label=False, interactive=False, container=False)
                download = gr.DownloadButton("Download", interactive=False)

        def choose(key: str) -> list[Any]:
            return [gr.update(visible=desk.runs[key].steps > 0), OWN, desk.runs[key].steps]

        def show(key: str, path: str | None) -> list[Any]:
            small, fills = path and str(desk.picture(Path(path))), desk.runs[key].holes
            return [
                gr.update(value=small, visible=bool(small) and not fills), gr.update(visible=bool(small) and fills),
                small and {"background": small, "layers": [], "composite": None}, None, None, "",
                gr.update(value=None, interactive=False),
            ]  # fmt: skip

        def restore(
            key: str, path: str | None, layers: Any, hole: str | None, name: str, count: int | None, side: int,
            how: str, number: int | None,
        ) -> list[Any]:  # fmt: skip
            if path is None:
                raise UserError("there is no picture: choose one first")
            made = desk.restored(
                key, Path(path), layers, Path(hole) if hole else None, name, count or 0, side or None, how, number or 0
            )
            return [(made.before, made.after), made.said, gr.update(value=made.file, interactive=True)]

        result = [slider, said, download]
        alone: dict[str, Any] = {"concurrency_id": "desk", "concurrency_limit": 1, "show_progress_on": slider}
        thumbnails.click(lambda sample: sample[0], thumbnails, file)
        run.change(choose, run, [sampling, sampler, steps])
        gr.on(
            [run.change, file.change],
            told(show, desk, jobs),
            [run, file],
            [picture, holes, painted, mask, *result],
            **alone,
        )
        settings = [sampler, steps, tile, tiling, seed]
        button.click(told(restore, desk, jobs), [run, file, painted, mask, *settings], result, **alone)
    return page


def told(work: Callable[..., Any], desk: Desk, jobs: Jobs) -> Callable[..., Any]:
    """The same, done in its turn; what the user can mend becomes a line on the page."""
    import gradio

    @wraps(work)
    def telling(*arguments: Any) -> Any:
        future: Future[Any] = Future()
        jobs.put((future, partial(work, *arguments)))
        try:
            return future.result()
        except UserError as error:
            raise gradio.Error(html.escape(desk.bare(str(error))), print_exception=False) from None

    return telling
