import io
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from grey_videos import write_video
from PIL import Image

from avemo.labels import EXPRESSIONS
from launch import media, viewer
from launch.prediction import FaceTrace
from launch.viewer import write_page

FRAMES = 60
SIZE = (160, 120)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def trace(face=0, first=0, frames=FRAMES):
    """Numbers that tell their frame: the box moves right, the expressions take turns, valence rises."""
    at = np.arange(frames, dtype=np.float32)
    expression = np.full((frames, 8), 0.04, np.float32)
    expression[np.arange(frames), (np.arange(frames) + face) % 8] = 0.72
    return FaceTrace(
        face,
        first,
        np.stack([at + 10 * face, 0 * at + 20, at + 10 * face + 40, 0 * at + 70], 1),
        np.ones(frames, bool),
        np.ones(frames, bool),
        expression,
        np.stack([at / 100 - 0.2 * face, -at / 200], 1).astype(np.float32),
        np.full((frames, 2), 0.125, np.float32),
    )


def without_face(whole, begin, end):
    """The same trace, its face lost for some frames; valence and arousal as well."""
    lost = slice(begin, end)
    for array in (whole.box, whole.expression, whole.valence_arousal, whole.spread):
        array[lost] = np.nan
    whole.face_valid[lost] = False
    return whole


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", FRAMES, SIZE, sound_s=FRAMES / 25)


@pytest.fixture(scope="module")
def two_faces(video):
    """A page with a video and two faces, of which the second comes later and goes sooner."""
    path = video.parent / "two.html"
    write_page(path, "clip.mp4", video, [without_face(trace(), 30, 40), trace(1, 10, 20)], ["Only a drawing."])
    return path


@contextmanager
def opened(browser, path, width=1280, height=900, scheme="light"):
    """The page in a window of its own; nothing may go wrong in it, and nothing may be asked of the network."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    if page.locator("video, audio").count():
        until(page, "player.readyState >= 2")
    yield page
    context.close()
    assert not wrong
    assert all(url == path.as_uri() or url.startswith(("blob:", "data:")) for url in asked)


def shown(page):
    """The number of the frame that the page says it shows."""
    return int(page.inner_text("#frame"))


def picture_shown(page):
    """The number of the frame that the video shows, told from its grey."""
    until(page, "!player.seeking")
    page.wait_for_timeout(150)
    grey = page.evaluate("""() => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
        const context = canvas.getContext("2d");
        context.drawImage(player, 0, 0, 1, 1);
        return context.getImageData(0, 0, 1, 1).data[0];
    }""")
    return (grey - 16) / 3


def until(page, condition):
    """Wait for a condition, asked for from outside: the page's policy forbids to evaluate it within."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"not within 5 s: {condition}")


def click_at(page, plot, frame, kind="click"):
    """Move the mouse to where a frame lies in a plot, and press it there."""
    page.locator(f"#{plot}").scroll_into_view_if_needed()
    box = page.locator(f"#{plot} .u-over").bounding_box()
    x = box["x"] + box["width"] * frame / (FRAMES - 1)
    getattr(page.mouse, kind)(x, box["y"] + box["height"] / 2)


def bars(page):
    return dict(line.replace("\u202f", " ").split("\n") for line in page.locator(".bars li").all_inner_texts())


# ------------------------------------------- in the browser -------------------------------------------


@pytest.mark.parametrize("plot", ["valence", "arousal", "presence"])
@pytest.mark.parametrize("frame", [0, 17, 48])
def test_a_click_in_a_trace_goes_there(browser, two_faces, plot, frame):
    with opened(browser, two_faces) as page:
        click_at(page, plot, 33)
        click_at(page, plot, frame)
        assert abs(page.evaluate("player.currentTime") - frame / 25) <= 1 / 25
        assert shown(page) == frame
        assert picture_shown(page) == pytest.approx(frame, abs=0.6)
        hand = page.locator(f"#{plot} .u-cursor-x").bounding_box()
        box = page.locator(f"#{plot} .u-over").bounding_box()
        assert hand["x"] == pytest.approx(box["x"] + box["width"] * frame / (FRAMES - 1), abs=1.5)


def test_dragging_goes_along(browser, two_faces):
    with opened(browser, two_faces) as page:
        click_at(page, "valence", 10, "move")
        page.mouse.down()
        for frame in (20, 35, 50):
            click_at(page, "valence", frame, "move")
            assert shown(page) == frame
        page.mouse.up()
        click_at(page, "valence", 5, "move")
        assert shown(page) == 50


def test_keys(browser, two_faces):
    with opened(browser, two_faces) as page:
        for key, frame in (
            ("ArrowRight", 1),
            ("Shift+ArrowRight", 26),
            ("ArrowLeft", 25),
            ("Shift+ArrowLeft", 0),
            ("ArrowLeft", 0),
            ("End", FRAMES - 1),
            ("ArrowRight", FRAMES - 1),
            ("Home", 0),
        ):
            page.keyboard.press(key)
            assert shown(page) == frame
        assert picture_shown(page) == pytest.approx(0, abs=0.6)
        page.keyboard.press("Space")
        until(page, "!player.paused && frame > 5")
        assert page.inner_text("#play") == "Pause"
        page.keyboard.press("Space")
        assert page.evaluate("player.paused")


def test_the_focus_is_seen_and_the_time_told(browser, two_faces):
    with opened(browser, two_faces) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "play"
        page.keyboard.press("Space")
        until(page, "!player.paused")
        page.keyboard.press("ArrowRight")
        until(page, "player.paused")
        page.locator("#presence").focus()
        page.keyboard.press("Home")
        page.keyboard.press("Shift+ArrowRight")
        time = page.get_by_role("slider", name="Time")
        assert time.get_attribute("aria-valuenow") == "25"
        assert time.get_attribute("aria-valuetext") == "0:01.00"
        assert time.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"


def test_playing_keeps_picture_and_numbers_together(browser, two_faces):
    with opened(browser, two_faces) as page:
        page.click("#play")
        until(page, "frame > 25")
        page.click("#play")
        assert page.evaluate("Math.abs(player.currentTime * 25 - frame) < 3")
        page.click("#screen")
        until(page, "player.ended")
        assert shown(page) == FRAMES - 1
        assert page.inner_text("#play") == "Play"


@pytest.mark.parametrize(("width", "frame"), [(1280, 24), (360, 12)])
def test_the_boxes_lie_where_the_faces_are(browser, two_faces, width, frame):
    with opened(browser, two_faces, width) as page:
        click_at(page, "arousal", frame)
        screen = page.locator("video").bounding_box()
        scale = screen["width"] / SIZE[0]
        assert screen["height"] == pytest.approx(SIZE[1] * scale, abs=1)
        for face, left in ((0, frame), (1, frame - 10 + 10)):
            box = page.locator(".box").nth(face).bounding_box()
            expected = [screen["x"] + left * scale, screen["y"] + 20 * scale, 40 * scale, 50 * scale]
            assert [box[name] for name in ("x", "y", "width", "height")] == pytest.approx(expected, abs=1)
        click_at(page, "arousal", 45)
        assert page.locator(".box:visible").all_inner_texts() == ["face 1"]


def test_expressions_and_affect_are_those_of_the_frame(browser, two_faces):
    with opened(browser, two_faces) as page:
        click_at(page, "valence", 21)
        assert bars(page) == {name: "72 %" if i == 21 % 8 else "4 %" for i, name in enumerate(EXPRESSIONS)}
        assert page.inner_text("#valence-now") == "+0.21 ± 0.13"
        assert page.inner_text("#arousal-now") == "\N{MINUS SIGN}0.10 ± 0.13"
        point = page.locator("#point")
        assert float(point.get_attribute("cx")) == pytest.approx(21)
        assert float(point.get_attribute("cy")) == pytest.approx(10.5)
        assert page.locator("#trail line:visible").count() == 21
        click_at(page, "valence", 58)
        assert page.locator("#trail line:visible").count() == 50 - 11


def test_without_a_face_nothing_is_made_up(browser, two_faces):
    with opened(browser, two_faces) as page:
        click_at(page, "valence", 35)
        assert set(bars(page).values()) == {"–"}
        assert page.inner_text("#valence-now") == "–"
        assert not page.locator("#point").is_visible()
        assert not page.locator(".box:visible").count()


def test_another_face_is_chosen(browser, two_faces):
    with opened(browser, two_faces) as page:
        click_at(page, "valence", 20)
        colours = [page.locator("#point").evaluate("element => getComputedStyle(element).fill")]
        page.get_by_role("button", name="face 2").click()
        colours.append(page.locator("#point").evaluate("element => getComputedStyle(element).fill"))
        assert colours[0] != colours[1]
        assert bars(page)[EXPRESSIONS[(10 + 1) % 8]] == "72 %"
        assert page.inner_text("#valence-now") == "\N{MINUS SIGN}0.10 ± 0.13"
        assert page.get_by_role("button", name="face 2", pressed=True).count() == 1
        on_trace = page.locator("#valence .u-cursor-pt").first
        assert on_trace.evaluate("element => getComputedStyle(element).backgroundColor") == colours[1]
        click_at(page, "valence", 5)
        assert set(bars(page).values()) == {"–"}
        page.keyboard.press("1")
        assert bars(page)[EXPRESSIONS[5]] == "72 %"
        page.keyboard.press("3")
        assert page.get_by_role("button", name="face 1", pressed=True).count() == 1


def test_light_and_dark(browser, two_faces):
    with opened(browser, two_faces) as page:
        click_at(page, "valence", 20)
        pictures = []
        for scheme in ("light", "dark", "light"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(200)
            pictures.append(page.locator("#valence").screenshot())
        light, dark, again = (np.asarray(Image.open(io.BytesIO(data)).convert("L"), int) for data in pictures)
        assert np.median(light) > 240
        assert np.median(dark) < 60
        assert light.std() > 5
        assert dark.std() > 5
        assert np.abs(light - again).mean() < 0.5


@pytest.mark.parametrize("width", [360, 800, 1920])
def test_nothing_sticks_out_at_any_width(browser, two_faces, width):
    with opened(browser, two_faces, width) as page:
        page.set_viewport_size({"width": width + 100, "height": 700})
        page.set_viewport_size({"width": width, "height": 700})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        click_at(page, "arousal", 40)
        assert shown(page) == 40


# --------------------------------------------- other sources ---------------------------------------------


def test_hostile_names_are_inert(browser, video, tmp_path):
    name = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">.mp4"
    path = tmp_path / "page.html"
    write_page(path, name, video, [trace()], [name])
    with opened(browser, path) as page:
        assert page.inner_text("h1") == name
        assert page.inner_text(".flag") == name
        assert page.title() == f"avemo: {name}"
        assert not page.locator("img").count()
        assert shown(page) == 0


def test_no_other_script_may_run(browser, video, tmp_path):
    path = tmp_path / "page.html"
    write_page(path, "a", video, [trace()], [])
    path.write_text(path.read_text().replace("<main", "<script>document.title = 'taken'</script><main"))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.title() == "avemo: a"
    page.close()


def test_sound_alone(browser, tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(np.arange(16_000 * FRAMES // 25) / 20), 16_000)
    lost = without_face(trace(), 0, FRAMES)
    heard = FaceTrace(**{**vars(lost), "valence_arousal": trace().valence_arousal})
    write_page(tmp_path / "page.html", "a.wav", tmp_path / "a.wav", [heard], [])
    with opened(browser, tmp_path / "page.html") as page:
        assert not page.locator(".bars, .screen").count()
        click_at(page, "arousal", 31)
        assert abs(page.evaluate("player.currentTime") - 31 / 25) <= 1 / 25
        assert page.inner_text("#valence-now") == "+0.31"
        page.keyboard.press("Space")
        until(page, "frame > 40")
        page.keyboard.press("Space")
        assert page.evaluate("player.paused")


def test_long_traces_can_be_looked_at_a_minute_at_a_time(browser, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100 * 16_000), 16_000)
    write_page(tmp_path / "page.html", "a.wav", tmp_path / "a.wav", [trace(frames=100 * 25)], [])
    with opened(browser, tmp_path / "page.html") as page:
        box = page.locator("#valence .u-over").bounding_box()

        def click(share):
            page.mouse.click(box["x"] + share * box["width"], box["y"] + 20)
            return shown(page)

        def labels():
            return page.evaluate("plots[2].plot.axes[0]._values")

        assert click(0.25) == pytest.approx(25 * 25, abs=3)
        assert labels()[-1] == "1:20"
        page.keyboard.press("z")
        page.wait_for_timeout(100)
        assert labels()[-1] == "1:00"
        assert click(0.5) == 30 * 25
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] + 50, box["y"] + 20)
        page.mouse.up()
        assert shown(page) == 60 * 25 - 1
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(100)
        assert labels()[0] == "1:00"
        hand = page.locator("#valence .u-cursor-x").bounding_box()
        assert hand["x"] == pytest.approx(box["x"], abs=1.5)
        assert click(0.25) == 75 * 25
        page.get_by_role("button", name="Zoom in", pressed=True).click()
        page.wait_for_timeout(100)
        assert click(0.25) == pytest.approx(25 * 25, abs=3)


def test_a_picture(browser, tmp_path):
    Image.new("RGB", SIZE, (40, 90, 60)).save(tmp_path / "a.png")
    write_page(tmp_path / "page.html", "a.png", tmp_path / "a.png", [trace(0, 0, 1), trace(1, 0, 1)], [])
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == list(SIZE)
        assert not page.locator("#play, #presence").count()
        page.get_by_role("button", name="face 2").click()
        assert bars(page)["happiness"] == "72 %"
        assert page.locator(".box:visible").count() == 2


def test_a_network_without_valence_and_arousal(browser, video, tmp_path):
    whole = trace()
    whole.valence_arousal[:] = whole.spread[:] = np.nan
    write_page(tmp_path / "page.html", "a", video, [whole], [])
    with opened(browser, tmp_path / "page.html") as page:
        assert not page.locator("#valence, .plane").count()
        click_at(page, "presence", 21)
        assert bars(page)[EXPRESSIONS[21 % 8]] == "72 %"


def test_a_video_in_which_nobody_was_found(browser, video, tmp_path):
    write_page(tmp_path / "page.html", "a", video, [], ["No face was found."])
    with opened(browser, tmp_path / "page.html") as page:
        click_at(page, "presence", 30)
        assert picture_shown(page) == pytest.approx(30, abs=0.6)


def test_what_is_long_is_cut_and_that_is_said(video, tmp_path, monkeypatch):
    for module in (media, viewer):
        monkeypatch.setattr(module, "FRAME_LIMIT", 25)
    path = tmp_path / "page.html"
    write_page(path, "a", video, [trace(), trace(1, 30, 5)], [])
    assert "Only the first" in path.read_text()
    assert "face 2" not in path.read_text()


def test_of_many_faces_those_that_are_there_longest_are_shown(video, tmp_path):
    path = tmp_path / "page.html"
    write_page(path, "a", video, [trace(face, 0, 10 + face) for face in range(20)], [])
    assert "Only the 9 faces that are there longest are shown, of 20." in path.read_text()
    assert [f'"face {face + 1}"' in path.read_text() for face in range(20)] == [False] * 11 + [True] * 9
    write_page(path, "a", video, [trace(face) for face in range(9)], [])
    assert "Only the" not in path.read_text()


def test_same_input_same_bytes(video, tmp_path):
    for name in ("a", "b"):
        write_page(tmp_path / name, "a", video, [trace()], [])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_uplot_travels_with_its_licence(video, tmp_path):
    write_page(tmp_path / "page.html", "a", video, [trace()], [])
    assert "Copyright (c) 2022 Leon Sorokin" in (tmp_path / "page.html").read_text()
