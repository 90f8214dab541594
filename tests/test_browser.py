"""The explorers in a real browser: a drag turns a light, a click finds a match, nothing is fetched from elsewhere."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="browser tests need playwright: pip install pytest-playwright"
)
ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ICPORTRAIT_HOME") or ROOT) / "data"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TOY = [
    """
import torch.nn.functional as F
from icportrait.dataset.storage import toy_view
from icportrait.explore.lights import HeadExplorer, light_view
from icportrait.explore.matches import MatchExplorer, Pair
from icportrait.model.correspondence import cost_volume
from icportrait.model.matching import matches_from_costs
from icportrait.world.relighting import light_from_direction
from icportrait.world.rig import Camera, direction

views = [toy_view(3, Camera(yaw, 0), 64) for yaw in (-20, 0, 20)]
front = views[1]
image = light_view(front, light_from_direction(direction(0, 20)))


def cells(x):
    return F.unfold(x, 12, stride=4, padding=4).unflatten(2, (16, 16))


def by_pixels(profile, target):
    return matches_from_costs({"pixels": cost_volume(cells(target), cells(profile))})
""",
    "MatchExplorer([Pair('twice', image, image, front.point, front.point)], by_pixels)",
    "HeadExplorer({'ball': [(v.camera, v) for v in views]})",
    "MatchExplorer([Pair('twice', image, image)], by_pixels, plain=True)",
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(args, folder, port):
    "A server of its own, with settings of its own, stopped afterwards."
    env = os.environ | dict(
        HOME=str(folder),
        JUPYTER_CONFIG_DIR=str(folder / "config"),
        JUPYTER_DATA_DIR=str(folder / "data"),
        JUPYTER_RUNTIME_DIR=str(folder / "runtime"),
        IPYTHONDIR=str(folder / "ipython"),
        ICPORTRAIT_HOME=str(DATA.parent),
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    )
    log = folder / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", *args], cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        for _ in range(240):
            if server.poll() is not None:
                pytest.fail(f"{args[0]} did not start: {log.read_text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def voila(notebook, folder):
    "A page made of a notebook."
    pytest.importorskip("voila", reason="this test needs voila: pip install voila")
    port = free_port()
    return serving(["voila", str(notebook), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"], folder, port)


def lab(folder):
    "JupyterLab on a folder."
    pytest.importorskip("jupyterlab", reason="this test needs jupyterlab")
    port = free_port()
    return serving(
        [
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ServerApp.ip=127.0.0.1",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        folder,
        port,
    )


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as p:
        try:
            b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error as e:
            pytest.skip(f"no Chromium to test with: {str(e).splitlines()[0]}")
        yield b
        b.close()


@pytest.fixture
def tab(chromium):
    "A page that can reach nothing but this machine; what it tried to reach is in `tab.foreign`."
    p = chromium.new_page(viewport=dict(width=1280, height=1600))
    p.foreign, p.complaints = [], []

    def route(r):
        if r.request.url.startswith(("http://127.0.0.1", "blob:", "data:")):
            return r.continue_()
        if "fortawesome" not in r.request.url:
            p.foreign.append(r.request.url)  # icons that Voila's own template links to; it works without
        r.abort()

    p.route("**/*", route)
    p.on("pageerror", lambda e: p.complaints.append(str(e)))
    yield p
    p.close()


@pytest.fixture
def toy(tmp_path):
    "A notebook with all explorers on a patterned ball: no data set, no weights."
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c.strip()) for c in TOY],
        metadata=dict(kernelspec=dict(name="python3", display_name="python3")),
    )
    nbformat.write(nb, tmp_path / "toy.ipynb")
    return tmp_path / "toy.ipynb"


def widget(page, label):
    "The widget that shows an image, by its label."
    return page.locator(f'.icp-touch[aria-label^="{label}"]').first


MEAN_OF_HALVES = """async img => {
  for (let k = 0; k < 9; k++) {
    try { await img.decode(); break; } catch { /* replaced meanwhile: decode the next */ }
  }
  const canvas = document.createElement('canvas');
  const w = canvas.width = img.naturalWidth;
  const h = canvas.height = img.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(img, 0, 0);
  const mean = x => {
    const data = context.getImageData(x, 0, w/2, h).data;
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) sum += data[i] + data[i+1] + data[i+2];
    return sum/(data.length/4)/3;
  };
  return [mean(0), mean(Math.floor(w/2))];
}"""


def halves(page, label):
    "Mean brightness of the left and of the right half of an image as it is on the screen, 0 to 255."
    return widget(page, label).locator("img").evaluate(MEAN_OF_HALVES)


def until(check, seconds=20, what="the image to change"):
    "Wait for something to become true."
    for _ in range(int(seconds * 10)):
        if value := check():
            return value
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s for {what}")


def point(page, label, x, y):
    "Where a place in [-1,1] is on the screen."
    widget(page, label).scroll_into_view_if_needed()
    b = widget(page, label).bounding_box()
    return b["x"] + (x + 1) / 2 * b["width"], b["y"] + (y + 1) / 2 * b["height"]


def drag(page, label, start, end):
    "Press, move in steps, release."
    page.mouse.move(*point(page, label, *start))
    page.mouse.down()
    page.mouse.move(*point(page, label, *end), steps=8)
    page.mouse.up()


def check_light(page):
    "Dragging the light from left to right moves the brightness from left to right."

    def lit_left():
        left, right = halves(page, "the view")
        return left > right + 2 and left

    def lit_right():
        left, right = halves(page, "the view")
        return right > left + 2 and left < brightness - 2

    drag(page, "light", (0, 0), (-0.65, 0))
    brightness = until(lit_left, what="light from the left")
    drag(page, "light", (-0.65, 0), (0.65, 0))
    until(lit_right, what="light from the right")


def check_colour(page):
    "A colour may be given by its name, or in three digits."
    field = page.locator(".widget-colorpicker input[type=text]")
    for colour in ("red", "#00f", "#ffffff"):
        before = halves(page, "the view")
        field.fill(colour)
        field.dispatch_event("change")
        until(lambda old=before: halves(page, "the view") != old, what=f"a light in {colour}")


def check_match(page, wanted):
    "A click on the target finds its match, and says how good it is."
    before = halves(page, "profile")
    page.mouse.click(*point(page, "target", 0.3, -0.25))
    until(lambda: halves(page, "profile") != before)
    until(lambda: page.get_by_text(wanted).count(), what=wanted)
    assert widget(page, "target").locator("path").count() == 1
    assert widget(page, "profile").locator("path").count() >= 1


def marks(page, label):
    return widget(page, label).locator("path").evaluate_all('ps => ps.map(p => p.getAttribute("d"))')


def check_toy(page):
    "Everything that the toy notebook offers."
    widget(page, "light").wait_for(timeout=90_000)
    widget(page, "target").wait_for()
    check_match(page, "px from the ground truth")
    before = marks(page, "profile")
    widget(page, "target").focus()
    page.keyboard.press("ArrowLeft")
    until(lambda: marks(page, "profile") != before, what="an arrow key to move the point")
    check_light(page)
    check_colour(page)
    ball = marks(page, "light")
    slider = page.locator(".widget-slider", has_text="yaw").locator(".noUi-handle")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    until(lambda: marks(page, "light") != ball, what="the highlight to move when the camera does")
    plain = page.locator(".widget-image").first
    src = plain.get_attribute("src")
    page.locator(".widget-slider", has_text="right").locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    until(lambda: plain.get_attribute("src") != src, what="the plain explorer to follow its slider")
    assert page.foreign == [], f"the page tried to reach {page.foreign[:3]}"


def test_voila(tab, toy, tmp_path):
    with voila(toy, tmp_path) as url:
        tab.goto(url, timeout=120_000)
        check_toy(tab)
    assert tab.complaints == []


def test_lab(tab, toy, tmp_path):
    with lab(tmp_path) as url:
        tab.goto(f"{url}/lab/tree/toy.ipynb?reset", timeout=120_000)
        tab.get_by_text("| Idle").first.wait_for(timeout=120_000)  # cells run before the kernel is there are forgotten
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_text("Run All Cells", exact=True).first.click()
        check_toy(tab)


def test_app(tab, tmp_path):
    missing = [f"data/{p}" for p in ("mini", "base") if not (DATA / p).is_dir()]
    if missing:
        pytest.skip(f"the app shows what ships, and {' and '.join(missing)} is not here")
    with voila(ROOT / "nbs/apps/explore.ipynb", tmp_path) as url:
        tab.goto(url, timeout=180_000)
        widget(tab, "light").wait_for(timeout=180_000)
        check_match(tab, "confidence")
        check_light(tab)
    assert tab.foreign == [] and tab.complaints == []
