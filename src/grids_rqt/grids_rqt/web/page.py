"""The page: boxes filled from the source, a few times a second. The stop and the images are plain HTML and page.js."""

import logging
from dataclasses import replace
from html import escape
from pathlib import Path

from nicegui import run, ui

from grids_common.so100 import JOINT_NAMES
from grids_rqt import captions
from grids_rqt.controls import MODES
from grids_rqt.drawing import LAYERS
from grids_rqt.view_model import ViewState
from grids_rqt.web import panels, plots
from grids_rqt.web.source import WebSource

HERE = Path(__file__).parent
PERIOD_S = 0.25  # of texts and plots
NO_INSTRUCTION = "instruction for the policy"
IMAGE_PERIOD_MS = 80  # from one image's arrival to the request of the next


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _header(source: WebSource) -> str:
    """The stop, before everything else."""
    words, off = ("■  EMERGENCY STOP", "") if source.controls else (f"recording: {source.title}", " disabled")
    return (
        f'<div id="stop-bar"><button id="stop" title="Stops the arm where it is, torque on (Esc)"{off}>{escape(words)}'
        f'</button></div><div id="stop-said" role="alert"></div><script>{_text("page.js")}</script>'
    )


class Page:
    """One browser's page."""

    def __init__(self, source: WebSource) -> None:
        self._source = source
        self._seen_report = source.report.number
        self._failed: list[str] = []
        ui.dark_mode(value=True)
        ui.add_head_html(f"<style>{_text('page.css')}</style>")
        ui.add_body_html(_header(source))
        with ui.element("div").classes("head"):
            self._mode = ui.label().classes("mode")
            self._reason = ui.label().classes("reason")
        if source.controls is not None:
            self._tools()
        elif source.length_s:
            self._times()
        with ui.element("div").classes("line"):
            self._problems = self._html("problems")
            self._layers()
        with ui.element("div").classes("boxes"):
            self._cameras = {name: self._camera(name) for name in source.cameras}
            self._policy = self._box("policy")
            self._stages, self._readings = self._html("", self._policy), self._html("", self._policy)
            self._joints()
            self._maps()
            self._servos = self._box("servo-box")
            self._servo_table = self._html("", self._servos)
        ui.run_javascript('document.querySelectorAll("img[data-camera]").forEach(follow)')
        self.refresh()
        ui.timer(PERIOD_S, self.refresh)

    @staticmethod
    def _html(classes: str, box: tuple | None = None) -> ui.html:
        """HTML that is made here from escaped texts."""
        if box is None:
            return ui.html("", sanitize=False).classes(classes)
        with box[0]:
            return ui.html("", sanitize=False).classes(classes)

    @staticmethod
    def _box(classes: str) -> tuple:
        """A box and its title."""
        with ui.element("div").classes(f"box {classes}") as box:
            return box, ui.label().classes("title")

    def _tools(self) -> None:
        controls = self._source.controls
        with ui.element("div").classes("tools"):
            self._instruction = ui.input(placeholder=NO_INSTRUCTION).props("dense outlined")
            self._instruction.on("keydown.enter", self._instruct)
            ui.button("Send", on_click=self._instruct).props("flat no-caps")
            mode = ui.select(list(MODES), value=MODES[0]).props("dense outlined options-dense").classes("mode-choice")
            ui.button("Set mode", on_click=lambda: controls.set_mode(mode.value)).props("flat no-caps")
            ui.button("Reset stop", on_click=controls.reset_estop).props("flat no-caps")

    def _times(self) -> None:
        """The time in a recording; reading up to it may take a second, so it is read when the slider is let go."""

        async def seek(event) -> None:
            await run.io_bound(self._source.seek, float(event.args))
            self.refresh()

        end = self._source.length_s
        with ui.element("div").classes("tools times"):
            slider = ui.slider(min=0.0, max=end, step=0.05, value=end).on("change", seek)
            words = ui.label(f"{end:.1f} of {end:.1f} s")
            slider.on_value_change(lambda event: words.set_text(f"{event.value:.1f} of {end:.1f} s"))

    def _instruct(self) -> None:
        self._source.controls.instruct((self._instruction.value or "").strip())

    def _camera(self, name: str) -> tuple:
        box = self._box("camera")
        with box[0]:
            image = f'<img data-camera="{name}" data-period="{IMAGE_PERIOD_MS}" alt="{name} camera">'
            ui.html(f'<div class="frame">{image}</div>', sanitize=False)
        return box

    def _joints(self) -> None:
        box, self._joint_title = self._box("joints")
        with box, ui.element("div").classes("plots"):
            self._plots = [ui.echart(plots.options(name)) for name in JOINT_NAMES]
        with box:
            ui.label("white: executed, blue: planned, yellow: now; seconds").classes("muted")

    def _maps(self) -> None:
        box, title = self._box("maps")
        title.text = "Retention and self-similarity of tokens"
        self._map_rows = {}
        with box:
            for name in self._source.cameras:
                ui.label(name).classes("muted")
                self._map_rows[name] = [self._html("map-row"), None]

    def _layers(self) -> None:
        chosen = {layer: getattr(self._source.style, layer) for layer in LAYERS}

        def tell() -> None:
            words = ",".join(name for name, on in chosen.items() if on)
            ui.run_javascript(f'window.gridsLayers = "{words}"')

        def set_layer(layer: str, *, on: bool) -> None:
            chosen[layer] = on
            tell()

        self._layer_boxes = []
        with ui.element("div").classes("layers"):
            ui.label("Draw:")
            for layer in LAYERS:
                change = lambda event, layer=layer: set_layer(layer, on=event.value)  # noqa: E731
                box = ui.checkbox(layer, value=chosen[layer], on_change=change).props("dense size=xs")
                self._layer_boxes.append(box)
        tell()

    def refresh(self) -> None:
        """Show a new snapshot; only what has changed is sent. A part that fails is named, and the others go on."""
        state, failed = self._source.state(), []
        parts = (
            self._show_head, self._show_instruction, self._show_report, self._show_cameras, self._show_policy,
            self._show_servos, self._show_joints,
        )  # fmt: skip
        for part in parts:
            try:
                part(state)
            except Exception as error:
                name = part.__name__.removeprefix("_show_")
                failed.append(f"this page cannot show: {name} ({type(error).__name__}: {error})")
                if failed[-1] not in self._failed:  # once, not four times a second
                    logging.getLogger(__name__).exception(failed[-1])
        self._failed = failed
        self._problems.content = panels.problems(replace(state, problems=(*state.problems, *failed)))

    def _show_head(self, state: ViewState) -> None:
        words = captions.headline(state)
        if self._source.controls is None and state.driver is None:
            words = captions.Reading("RECORDING", f"{self._source.title}: without a driver's status")
        name = f"{self._source.title}  ·  " if self._source.controls and self._source.title else ""
        self._mode.text, self._reason.text = name + words.name, words.value
        self._mode.classes(replace=f"mode {words.level}")

    def _show_instruction(self, state: ViewState) -> None:
        words = state.instruction or NO_INSTRUCTION
        if self._source.controls is not None and self._instruction.props["placeholder"] != words:
            self._instruction.props["placeholder"] = words

    def _show_report(self, _: ViewState) -> None:
        report = self._source.report
        if report.number != self._seen_report:
            self._seen_report = report.number
            ui.notify(report.sentence, type="positive" if report.ok else "warning", position="bottom")

    def _show_cameras(self, state: ViewState) -> None:
        for name, (box, title) in self._cameras.items():
            camera = state.cameras[name]
            title.text = captions.camera_title(name, camera)
            box.classes(add="silent" if camera.silent_s else "", remove="" if camera.silent_s else "silent")
            self._show_maps(state, name)

    def _show_policy(self, state: ViewState) -> None:
        self._policy[1].text = captions.policy_title(state)
        self._stages.content = panels.stages(state)
        self._readings.content = panels.readings(state)

    def _show_servos(self, state: ViewState) -> None:
        self._servos[1].text = captions.servos_title(state)
        self._servo_table.content = panels.servos(state)

    def _show_joints(self, state: ViewState) -> None:
        self._joint_title.text = captions.chunk_title(state)
        for joint, chart in enumerate(self._plots):
            chart.run_chart_method("setOption", plots.update(state, joint))

    def _show_maps(self, state: ViewState, name: str) -> None:
        samples = state.cameras[name].samples
        newest = samples[-1] if samples else None
        row = self._map_rows[name]
        if row[1] is not newest or not row[0].content:
            row[0].content, row[1] = panels.map_row(state, name), newest
