"""JupyterLab in a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync"]  # fmt: skip
_SETTINGS = {
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # otherwise cells out of sight are not in the page
}
# Renders texts of one media type at the end of the page, as outputs of a trusted notebook.
RENDER = """async ([kind, texts]) => {
    document.querySelectorAll('.fuzzed').forEach(node => node.remove());
    delete window.__pwned;
    const host = document.body.appendChild(document.createElement('div'));
    host.className = 'fuzzed';
    for (const text of texts) {
        const renderer = window.jupyterapp.shell.currentWidget.content.rendermime.createRenderer(kind);
        renderer.constructor.attach(renderer, host);
        await renderer.renderModel({ data: { [kind]: text }, metadata: {}, trusted: true, setData: () => {} });
    }
}"""


@contextmanager
def jupyter_lab(folder: Path, settings: Path) -> Iterator[str]:
    """The address of JupyterLab for `folder`, on a free port of loopback."""
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(settings / "config"), "JUPYTERLAB_SETTINGS_DIR": str(settings / "lab"),
                                "JUPYTERLAB_WORKSPACES_DIR": str(settings / "spaces")}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1",
               "--IdentityProvider.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    (settings / "config").mkdir(exist_ok=True)
    (settings / "config" / "jupyter_server_config.json").write_text(
        '{"JupyterNotebookApp": {"expose_app_in_browser": true}}'
    )
    for name, value in _SETTINGS.items():
        file = settings / "lab" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)
    log = (settings / "lab.log").open("w+")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield _address(process, settings / "lab.log")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # in rare runs it ignores the signal
            process.kill()
            process.wait()
        log.close()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        words = log.read_text().split()
        found = [word for word in words if word.startswith("http://127.0.0.1:") and "/lab" in word]
        for address in {word.partition("/lab")[0] for word in found}:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{address}/api/status", timeout=10),
            ):
                return address  # it prints its address before it listens there
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


@contextmanager
def browser_page(*, width: int = 1100, dark: bool = False) -> Iterator[Page]:
    """A page of headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
            )
        finally:
            browser.close()


def open_notebook(page: Page, address: str, name: str, *, place: str = "lab/tree") -> None:
    """Opens a notebook in JupyterLab, or in Notebook 7 if `place` is "notebooks"."""
    page.goto(f"{address}/{place}/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_timeout(500)


# Awaits a promise with a timeout, which `evaluate` does not have.
_IN_TIME = """promise => Promise.race([promise, new Promise((_, fail) =>
    setTimeout(() => fail(new Error('JupyterLab took more than a minute')), 60000))])"""


def command(page: Page, name: str) -> None:
    """Runs a command of JupyterLab."""
    page.evaluate(f"name => ({_IN_TIME})(window.jupyterapp.commands.execute(name))", name)


def wait_for_kernel(page: Page, timeout: float = 60) -> None:
    page.evaluate(f"() => ({_IN_TIME})(window.jupyterapp.shell.currentWidget.sessionContext.ready)")
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
        timeout=timeout * 1000,
    )


def run_all(page: Page, timeout: float = 60) -> None:
    """Runs every cell, and waits until each code cell has its number."""
    start_all(page, timeout)
    finish_all(page, timeout)


def start_all(page: Page, timeout: float = 60) -> None:
    wait_for_kernel(page, timeout)
    # Not awaited: the run goes on.
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")


def finish_all(page: Page, timeout: float = 60) -> None:
    page.wait_for_function(
        """() => window.jupyterapp.shell.currentWidget.content.widgets.every(
            cell => cell.model.type !== 'code' || (cell.model.executionCount !== null && cell.model.executionState !== 'running'))""",
        timeout=timeout * 1000,
    )
    page.wait_for_timeout(1000)
